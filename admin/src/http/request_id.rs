//! Request ids: the caller's when it is fit to be logged and stored, else a new one.

use uuid::Uuid;

/// The header, and the key of gRPC metadata.
pub const NAME: &str = "x-request-id";
const LONGEST: usize = 128;

/// The id that this request goes by from here on.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// The caller's id if it has 1 to 128 visible ASCII characters, else a new UUID.
#[must_use]
pub fn or_new(given: Option<&str>) -> String {
    let fit = |id: &&str| (1..=LONGEST).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    given.filter(fit).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_fit_is_replaced() {
        let longest = "x".repeat(128);
        for id in ["a", "3f1c-…", "", "two words", "tab\t", &"x".repeat(129), &longest] {
            let fit = id == "a" || id == longest;
            assert_eq!(or_new(Some(id)) == id, fit, "{id}");
        }
        assert_ne!(or_new(None), or_new(None));
    }
}
