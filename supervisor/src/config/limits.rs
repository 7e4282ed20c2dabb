//! `[limits.<component>]`: what each process of a component may use.

use gatehouse_chassis::config::{Bytes, Reader};

use crate::component::Component;

/// With less no component starts.
const LEAST_MEMORY: Bytes = Bytes(16 << 20);

/// Of each process of one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `open_files`: descriptors, sockets among them. Default: what the supervisor itself may have.
    pub open_files: Option<u64>,
    /// `memory`, in bytes: what goes beyond it ends the process. None by default.
    pub memory: Option<u64>,
    /// `cpu_weight`: the share of a busy machine, in relation to the others. Default 100, from 1 to 10000.
    pub cpu_weight: u16,
}

impl Limits {
    /// The weight of whoever has none configured.
    pub(crate) const EVEN: u16 = 100;
}

impl Default for Limits {
    fn default() -> Self {
        Self { open_files: None, memory: None, cpu_weight: Self::EVEN }
    }
}

/// Of every component.
pub(super) fn read(reader: &mut Reader) -> Vec<(&'static str, Limits)> {
    Component::ALL.map(|component| (component.name(), section(reader, component))).into()
}

fn section(reader: &mut Reader, component: Component) -> Limits {
    let mut section = reader.section(match component {
        Component::Redis => "limits.redis",
        Component::Auditor => "limits.auditor",
        Component::Pusher => "limits.pusher",
        Component::Edge => "limits.edge",
        Component::Admin => "limits.admin",
    });
    let open_files = section.key("open_files").optional_within(256..=1_048_576);
    let memory = section.key("memory").optional::<Bytes>();
    if memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        section.problem("memory", "is too little for any component; at least 16MiB");
    }
    let cpu_weight = section.key("cpu_weight").within(Limits::EVEN, 1..=10_000);
    section.finish();
    Limits { open_files, memory: memory.map(|Bytes(bytes)| bytes), cpu_weight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_chassis::config::Source;

    fn parse(text: &str) -> (Vec<(&'static str, Limits)>, Vec<String>) {
        let mut reader = Reader::new(Source::of(text, &[]));
        let limits = read(&mut reader);
        (limits, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_component_has_its_own_and_nobody_has_any_by_default() {
        let (limits, problems) = parse(
            "[limits]\nburst = 1\n[limits.edge]\nopen_files = 4096\nmemory = \"512MiB\"\ncpu_weight = 200\n[limits.redis]\nmemory = 67108864\n",
        );
        assert_eq!(problems, [""; 0]);
        let of = |name| limits.iter().find(|(component, _)| *component == name).unwrap().1;
        assert_eq!(of("edge"), Limits { open_files: Some(4096), memory: Some(512 << 20), cpu_weight: 200 });
        assert_eq!(of("redis"), Limits { memory: Some(64 << 20), ..Limits::default() });
        assert_eq!(of("pusher"), Limits { open_files: None, memory: None, cpu_weight: 100 });
    }

    #[test]
    fn what_is_wrong_is_said_at_its_place() {
        let (_, problems) =
            parse("[limits.edge]\nopen_files = 3\nmemory = \"1MB\"\ncpu_weight = 0\ncpu_wait = 1\n[limits.admin]\nmemory = \"1MiB\"\n");
        assert_eq!(
            problems,
            [
                "gateway.toml:2: limits.edge.open_files: 3 is outside 256..=1048576",
                "gateway.toml:3: limits.edge.memory: `1MB`: is no size; write 64MiB, 2GiB or a number of bytes",
                "gateway.toml:4: limits.edge.cpu_weight: 0 is outside 1..=10000",
                "gateway.toml:5: limits.edge.cpu_wait: unknown key; did you mean `cpu_weight`?",
                "gateway.toml:7: limits.admin.memory: is too little for any component; at least 16MiB",
            ]
        );
    }
}
