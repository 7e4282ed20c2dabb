//! Whom a command concerns, as it is typed.

use std::{fmt, str::FromStr};

use gatehouse_chassis::config::unknown_key;
use gatehouse_proto::{
    control::{COMPONENTS, SCALABLE, check_instance, split_target, target},
    internal::v1,
};

/// `pusher/1`; without a number all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    component: String,
    instance: Option<u32>,
}

/// The component of which there may be several.
#[derive(Clone, Debug)]
pub struct Scalable(pub String);

impl Target {
    /// One instance.
    pub fn one(component: &str, instance: u32) -> Self {
        Self { component: component.to_owned(), instance: Some(instance) }
    }

    /// Its name.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// `None`: all of them.
    pub const fn instance(&self) -> Option<u32> {
        self.instance
    }

    /// Whether that one is meant.
    pub fn means(&self, component: &str, instance: u32) -> bool {
        self.component == component && self.instance.is_none_or(|wanted| wanted == instance)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((component, number)) = dashed(text) {
            return Err(format!("write {component}/{number}"));
        }
        let (component, instance) = split_target(text)?;
        let component = known(component)?;
        instance.map_or(Ok(()), |instance| check_instance(&component, instance))?;
        Ok(Self { component, instance })
    }
}

impl FromStr for Scalable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match known(text)? {
            component if component == SCALABLE => Ok(Self(component)),
            component => Err(format!("there is one {component} and no more; only {SCALABLE}s can be scaled")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&target(&self.component, self.instance))
    }
}

impl From<Target> for v1::Target {
    fn from(Target { component, instance }: Target) -> Self {
        Self { component, instance }
    }
}

fn known(name: &str) -> Result<String, String> {
    if COMPONENTS.contains(&name) { Ok(name.to_owned()) } else { Err(unknown_key("component", name, &COMPONENTS)) }
}

/// One instance, as people name it: there is one edge, and its number says nothing.
pub fn name(component: &str, instance: u32) -> String {
    target(component, (component == SCALABLE).then_some(instance))
}

/// `pusher-1`, as logs and sockets are named.
fn dashed(text: &str) -> Option<(&str, &str)> {
    let (component, number) = text.rsplit_once('-')?;
    (COMPONENTS.contains(&component) && number.parse::<u32>().is_ok()).then_some((component, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reads_as_it_is_written() {
        for text in ["edge", "edge/0", "pusher", "pusher/63", "redis"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_target_without_a_number_means_all() {
        let target = |text: &str| text.parse::<Target>().unwrap();
        assert!(target("pusher").means("pusher", 3) && target("pusher/3").means("pusher", 3));
        assert!(!target("pusher/3").means("pusher", 2) && !target("edge").means("pusher", 0));
        assert_eq!([name("edge", 0), name("pusher", 0)], ["edge", "pusher/0"]);
    }

    #[test]
    fn a_slip_is_answered_with_what_was_meant() {
        let cases = [
            ("egde", "unknown component; did you mean `edge`?"),
            ("puhser/1", "unknown component; did you mean `pusher`?"),
            ("suite", "unknown component; known: redis, auditor, pusher, edge, admin"),
            ("edge/1", "there is one edge, and its number is 0"),
            ("edge/x", "`x` is no number"),
            ("pusher/64", "pushers are numbered 0 to 63"),
            ("pusher/", "`` is no number"),
            ("pusher-1", "write pusher/1"),
        ];
        for (text, why) in cases {
            assert_eq!(text.parse::<Target>().unwrap_err(), why);
        }
        assert_eq!("edge".parse::<Scalable>().unwrap_err(), "there is one edge and no more; only pushers can be scaled");
    }
}
