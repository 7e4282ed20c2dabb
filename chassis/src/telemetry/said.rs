//! A line of our logs, read again: the JSON that a component writes, as a person reads it.

use serde_json::Value;

/// Fields that say nothing to somebody who knows when and by whom.
const OBVIOUS: [&str; 6] = ["timestamp", "level", "message", "target", "component", "instance"];

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// `WARN`, if it says how bad it is.
    pub level: Option<String>,
    /// Its message alone.
    pub message: String,
    /// What else it tells, ` lag=3 why=disk`; may be empty.
    pub fields: String,
}

impl Said {
    /// `None`: it is no line of JSON with a message.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else { return None };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
        let (level, message) = (text("level"), text("message")?);
        let others = fields.iter().filter(|(name, _)| !OBVIOUS.contains(&name.as_str()));
        let told =
            |(name, value): (&String, &Value)| value.as_str().map_or_else(|| format!(" {name}={value}"), |text| format!(" {name}={text}"));
        Some(Self { level, message, fields: others.map(told).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_knows_is_left_out_and_what_is_no_message_is_not_read() {
        let said = Said::read(r#"{"timestamp":"t","level":"WARN","message":"slow","target":"x","stream.lag":3,"why":"disk"}"#).unwrap();
        assert_eq!((said.level.as_deref(), said.message.as_str(), said.fields.as_str()), (Some("WARN"), "slow", " stream.lag=3 why=disk"));
        for other in ["{", "{}", "[1]", "plain", r#"{"message":1}"#] {
            assert_eq!(Said::read(other), None, "{other}");
        }
    }
}
