//! What stands in a lane.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
};

use serde::{Deserialize, Serialize};

use crate::component::Component;

/// More than any record has.
const MAX_LENGTH: usize = 4096;

/// The process that holds the lane; or that held it last, if nobody has heard of its end: who has crosses it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    /// Clock ticks after the boot: no other process of that pid shares it.
    pub(crate) start_time: u64,
    pub(crate) generation: u32,
    pub(crate) component: String,
    pub(crate) instance: u32,
    /// Of its binary.
    pub(crate) build: String,
    /// Unix time.
    pub(crate) started_ms: u64,
    /// See [`boot`]. Empty in what an earlier build wrote, which crossed nothing out.
    #[serde(default)]
    pub(crate) boot: String,
}

/// Which boot of the machine this is. Empty: nobody knows.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Record {
    /// What was written; nothing when that is torn.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut bytes = vec![0; MAX_LENGTH];
        let length = file.read_at(&mut bytes, 0).ok()?;
        serde_json::from_slice(bytes.get(..length)?).ok()
    }

    /// Says in the lane who holds it. In place, and cut afterwards: what a file once had room for it has on a full disk, too.
    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        file.write_all_at(&bytes, 0)?;
        file.set_len(bytes.len() as u64)
    }

    /// Makes what stands in the lane no record any more. In place, so that the room for the next is kept.
    pub(super) fn cross_out(file: &File) -> io::Result<()> {
        file.write_all_at(b"#", 0)
    }

    /// Whether it speaks of that slot.
    pub(super) fn is_of(&self, component: Component, instance: u32) -> bool {
        self.component == component.name() && self.instance == instance
    }
}
