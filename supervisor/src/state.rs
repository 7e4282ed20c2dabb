//! What outlives the supervisor: the history of every slot, how many pushers an operator wanted, the changes that are queued. `supervisor.state.json` in the
//! state directory.
//!
//! Which processes run does not stand here: their lanes say so. A disk that is full or stands still costs the memory of a supervisor that dies meanwhile, and
//! nothing else: the suite goes on with what it knows.

mod writer;

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;

use gatehouse_proto::internal::v1::ChangeStatus;

use crate::{child::Memory, component::SlotId, upgrade::Upgrade};
use writer::Writer;

/// Between two tries on a disk that takes nothing.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a disk may take before it is one that stands still. Less than anybody notices; many times what a write takes.
const PATIENCE: Duration = Duration::from_millis(200);

/// The file, and what it should say.
#[derive(Debug)]
pub(crate) struct StateFile {
    record: Record,
    /// As it was handed over last.
    handed: Vec<u8>,
    writer: Writer,
    /// The last write failed or is still under way; it is to be looked after then.
    due: Option<Instant>,
}

/// What is remembered of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SlotRecord {
    #[serde(deserialize_with = "or_default")]
    pub(crate) memory: Memory,
    pub(crate) restarts: u32,
    pub(crate) stopped_by: Option<String>,
}

/// An operator's number of pushers. It holds until the configuration says another one than it did then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Scale {
    configured: u32,
    wanted: u32,
    /// How many there were, while it is under way.
    #[serde(default)]
    from: Option<u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// By the slot's name, `pusher/1`. Slots that were removed are kept: numbers of generations are given once.
    #[serde(deserialize_with = "each_slot")]
    slots: BTreeMap<String, SlotRecord>,
    #[serde(deserialize_with = "or_default")]
    scale: Option<Scale>,
    /// The suite had not served yet.
    #[serde(deserialize_with = "or_default")]
    starting: bool,
    /// Under way.
    #[serde(deserialize_with = "or_default")]
    upgrade: Option<Upgrade>,
    /// Queued, running, and over.
    #[serde(deserialize_with = "each_change")]
    changes: Vec<ChangeStatus>,
}

/// What another build wrote in a way that we do not understand is nothing, and the rest of the file is not lost for it: an upgrade has two builds on one file.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

fn each_slot<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, SlotRecord>, D::Error> {
    let slots: BTreeMap<String, serde_json::Value> = or_default(deserializer)?;
    Ok(slots.into_iter().map(|(name, slot)| (name, serde_json::from_value(slot).unwrap_or_default())).collect())
}

fn each_change<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ChangeStatus>, D::Error> {
    let changes: Vec<serde_json::Value> = or_default(deserializer)?;
    Ok(changes.into_iter().filter_map(|change| serde_json::from_value(change).ok()).collect())
}

impl StateFile {
    /// Reads what the last supervisor left. What cannot be read is nothing; it is kept beside under another name for whoever wants to know.
    pub(crate) fn open(state_dir: &Path, failures: IntCounter) -> io::Result<Self> {
        let path = state_dir.join("supervisor.state.json");
        let record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let kept = path.with_extension("json.unreadable");
                // Only for people to look at.
                let _lost = fs::rename(&path, &kept);
                tracing::warn!(%error, "{} is not what we write; history is forgotten", path.display());
                Record::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "{} cannot be read; history is forgotten", path.display());
                }
                Record::default()
            }
        };
        Ok(Self { record, handed: Vec::new(), writer: Writer::open(path, failures)?, due: None })
    }

    /// What is remembered of that slot.
    pub(crate) fn slot(&self, id: SlotId) -> SlotRecord {
        self.record.slots.get(&id.to_string()).cloned().unwrap_or_default()
    }

    /// How many pushers there are to be.
    pub(crate) fn pushers(&self, configured: u32) -> u32 {
        self.record.scale.filter(|scale| scale.configured == configured).map_or(configured, |scale| scale.wanted)
    }

    /// An operator wants that many. `from`: how many there were, until that is done.
    pub(crate) const fn scale(&mut self, configured: u32, wanted: u32, from: Option<u32>) {
        self.record.scale = Some(Scale { configured, wanted, from });
    }

    /// From how many pushers to so many is under way, perhaps since the last supervisor.
    pub(crate) fn scaled_from(&self, configured: u32, wanted: u32) -> Option<u32> {
        self.record.scale.filter(|scale| (scale.configured, scale.wanted) == (configured, wanted))?.from
    }

    /// Nobody is at it any more.
    pub(crate) fn end_scale(&mut self) {
        if let Some(scale) = &mut self.record.scale {
            scale.from = None;
        }
    }

    /// Where a slot stands.
    pub(crate) fn note_slot(&mut self, id: SlotId, slot: SlotRecord) {
        self.record.slots.insert(id.to_string(), slot);
    }

    /// Whether the suite of the last supervisor had not served yet. Of one that is not remembered it is not known, and not believed.
    pub(crate) const fn was_starting(&self) -> bool {
        self.record.starting
    }

    /// Whether ours has not.
    pub(crate) const fn note_starting(&mut self, starting: bool) {
        self.record.starting = starting;
    }

    /// The upgrade that is under way: of the supervisor before, and then of this one.
    pub(crate) const fn upgrade(&self) -> Option<&Upgrade> {
        self.record.upgrade.as_ref()
    }

    /// How it stands.
    pub(crate) fn note_upgrade(&mut self, upgrade: Option<Upgrade>) {
        self.record.upgrade = upgrade;
    }

    /// Whether the next supervisor would find all that was noted before the last [`StateFile::write`].
    pub(crate) fn is_written(&self) -> bool {
        self.writer.outcome() == Some(true)
    }

    /// Whether that was tried at least. Not so while the disk stands still.
    pub(crate) fn is_tried(&self) -> bool {
        self.writer.outcome().is_some()
    }

    /// When a write is to be looked after, though nothing changes meanwhile.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// How changes stand.
    pub(crate) fn note_changes(&mut self, changes: Vec<ChangeStatus>) {
        self.record.changes = changes;
    }

    /// How they stood when the last supervisor wrote it.
    pub(crate) fn changes(&self) -> Vec<ChangeStatus> {
        self.record.changes.clone()
    }

    /// Writes it if it has changed. When this returns, that is done, unless the disk stands still: then whoever calls is held up once, for a moment, and not
    /// again before the disk has caught up. A failure is tried again with the next call, which comes when it is [`StateFile::due`].
    pub(crate) fn write(&mut self) {
        let Ok(bytes) = serde_json::to_vec(&self.record) else { return };
        let before = self.writer.outcome();
        if bytes != self.handed || before == Some(false) {
            self.writer.hand_over(bytes.clone());
            self.handed = bytes;
            if before.is_some() {
                self.writer.newest().wait(PATIENCE);
            }
        }
        self.due = match self.writer.outcome() {
            Some(true) => None,
            Some(false) => Some(Instant::now() + AGAIN),
            None => Some(Instant::now() + PATIENCE),
        };
    }

    /// Resolves when what was handed over last was tried, or could not be for so long.
    pub(crate) fn tried(&self, bound: Duration) -> impl Future<Output = ()> + use<> {
        let newest = self.writer.newest();
        async move {
            // Cancelled with the runtime, at the end.
            let _over = spawn_blocking(move || newest.wait(bound)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::component::Component;

    const EDGE: SlotId = SlotId { component: Component::Edge, instance: 0 };

    fn failures() -> IntCounter {
        IntCounter::new("failures", "Of a test.").unwrap()
    }

    fn noted(state: &mut StateFile, generations: u32) {
        let memory = Memory { generations, ..Memory::default() };
        state.note_slot(EDGE, SlotRecord { memory, restarts: 3, stopped_by: Some("ada".into()) });
        state.write();
    }

    #[test]
    fn what_another_build_wrote_costs_what_is_not_understood_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"slots": {"edge": {"memory": {"generations": 7, "quarantine": {"haunted": 3}, "mood": "new"}, "restarts": 2},
            "admin": {"memory": {"generations": "seven"}, "restarts": 3}, "pusher/0": 5},
            "scale": {"wanted": 4}, "starting": "perhaps", "upgrade": {"directory": 1}, "weather": "fine",
            "changes": [{"id": 5}, {"id": "c", "what": "restart edge"}, {"change_id": "d", "steps": [{"message": "m"}], "mood": "new"}]}"#;
        fs::write(dir.path().join("supervisor.state.json"), text).unwrap();
        let state = StateFile::open(dir.path(), failures()).unwrap();
        let edge = state.slot(EDGE);
        assert_eq!((edge.memory.generations, edge.memory.quarantine, edge.restarts), (7, None, 2));
        let admin = state.slot(SlotId { component: Component::Admin, instance: 0 });
        assert_eq!((admin.memory.generations, admin.restarts), (0, 3));
        assert!(!state.was_starting() && state.upgrade().is_none() && state.pushers(2) == 2);
        assert_eq!(state.changes().iter().map(|change| change.change_id.as_str()).collect::<Vec<_>>(), ["c", "d"]);
    }

    #[test]
    fn the_next_supervisor_reads_what_this_one_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = StateFile::open(dir.path(), failures()).unwrap();
        assert_eq!(state.slot(EDGE), SlotRecord::default());
        state.scale(2, 5, Some(2));
        noted(&mut state, 7);
        let next = StateFile::open(dir.path(), failures()).unwrap();
        assert_eq!((next.slot(EDGE).memory.generations, next.slot(EDGE).restarts), (7, 3));
        assert_eq!((next.pushers(2), next.pushers(3)), (5, 3), "another configuration beats an old scale");
        assert_eq!([next.scaled_from(2, 5), next.scaled_from(3, 5), next.scaled_from(2, 4)], [Some(2), None, None]);
    }

    #[test]
    fn nonsense_is_nothing_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("supervisor.state.json");
        fs::write(&path, "{").unwrap();
        assert_eq!(StateFile::open(dir.path(), failures()).unwrap().slot(EDGE), SlotRecord::default());
        assert!(path.with_extension("json.unreadable").exists());
    }

    #[test]
    fn a_disk_that_takes_nothing_is_counted_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (gone, failures) = (dir.path().join("state"), failures());
        let mut state = StateFile::open(&gone, failures.clone()).unwrap();
        noted(&mut state, 1);
        noted(&mut state, 2);
        assert_eq!(failures.get(), 2);
        assert!(state.due().is_some() && state.is_tried() && !state.is_written(), "it is tried again though nothing changes");
        fs::create_dir(&gone).unwrap();
        state.write();
        assert!(state.due().is_none() && state.is_written());
        assert_eq!(StateFile::open(&gone, failures).unwrap().slot(EDGE).memory.generations, 2);
    }

    #[tokio::test]
    async fn a_disk_that_stands_still_holds_nobody_up_twice_and_gets_the_newest_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        // Whoever writes waits until somebody reads.
        let draft = dir.path().join("supervisor.state.json.new");
        nix::unistd::mkfifo(&draft, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut state = StateFile::open(dir.path(), failures()).unwrap();
        noted(&mut state, 1);
        let begun = Instant::now();
        (2..=1000).for_each(|generations| noted(&mut state, generations));
        assert!(begun.elapsed() < Duration::from_secs(20), "it waits each time: {:?}", begun.elapsed());
        assert!(state.due().is_some() && !state.is_tried() && !state.is_written());
        let mut first = String::new();
        // With it the pipe is in the place of the file, and the next draft is a file.
        fs::File::open(&draft).unwrap().read_to_string(&mut first).unwrap();
        assert!(first.contains("\"generations\":1,"), "{first}");
        state.tried(Duration::from_secs(20)).await;
        state.write();
        assert!(state.due().is_none() && state.is_written());
        assert_eq!(StateFile::open(dir.path(), failures()).unwrap().slot(EDGE).memory.generations, 1000);
    }
}
