//! Which path goes where: the edge's own first, then the longest configured prefix of whole segments.

use std::sync::Arc;

use super::readings::readings;
use crate::config::{AUTH_PREFIX, OWN_PATHS, Route};

/// Where a path goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The edge answers.
    Own(Own),
    /// The auth backend.
    Auth,
    /// A `[[route]]`, by its place in the configuration.
    Route(usize),
    /// Nowhere.
    Nowhere,
}

/// What the edge answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// The process is alive.
    Alive,
    /// The process serves.
    Serving,
    /// The suite is ready.
    Ready,
    /// Public keys.
    Keys,
}

/// Prefixes, longest first, with the route of each.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    prefixes: Vec<(Arc<str>, usize)>,
    own: Vec<Arc<str>>,
    auth: Arc<str>,
    nowhere: Arc<str>,
}

impl Table {
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut prefixes: Vec<_> = routes.iter().enumerate().map(|(i, route)| (Arc::from(route.prefix.as_str()), i)).collect();
        prefixes.sort_by_key(|(prefix, _): &(Arc<str>, usize)| std::cmp::Reverse(prefix.len()));
        Self { prefixes, own: OWN_PATHS.map(Arc::from).to_vec(), auth: AUTH_PREFIX.into(), nowhere: "none".into() }
    }

    /// Where the path goes.
    pub(crate) fn place(&self, path: &str) -> Place {
        match path {
            "/healthz" | "/health" | "/api/v1/health" => Place::Own(Own::Alive),
            "/readyz" => Place::Own(Own::Serving),
            "/health/ready" | "/api/v1/health/ready" => Place::Own(Own::Ready),
            "/api/v1/public/keys" => Place::Own(Own::Keys),
            _ if below(path, AUTH_PREFIX) => Place::Auth,
            _ => self.prefixes.iter().find(|(prefix, _)| below(path, prefix)).map_or(Place::Nowhere, |&(_, route)| Place::Route(route)),
        }
    }

    /// Whether that place is the path's however the servers behind us read it.
    pub(crate) fn is_sure(&self, place: Place, path: &str) -> bool {
        readings(path).iter().all(|reading| self.place(reading) == place)
    }

    /// The bounded name of a place, for metrics: a path of ours or a configured prefix.
    pub(crate) fn label(&self, place: &Place, path: &str) -> Arc<str> {
        let label = match place {
            Place::Own(_) => self.own.iter().find(|own| &***own == path),
            Place::Auth => Some(&self.auth),
            Place::Route(route) => self.prefixes.iter().find(|(_, i)| i == route).map(|(prefix, _)| prefix),
            Place::Nowhere => None,
        };
        Arc::clone(label.unwrap_or(&self.nowhere))
    }
}

/// Whether a path is a prefix, or below it: `/a` and `/a/x` are below `/a`, `/ab` is not.
fn below(path: &str, prefix: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Audit, Priority};

    fn table(prefixes: &[&str]) -> Table {
        let route = |prefix: &&str| Route {
            prefix: (*prefix).into(),
            backend: 0,
            strip_prefix: false,
            audit: Audit::BestEffort,
            priority: Priority::Normal,
            timeout: std::time::Duration::ZERO,
            transfer: crate::config::Transfer::default(),
        };
        Table::new(&prefixes.iter().map(route).collect::<Vec<_>>())
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let table = table(&["/a", "/a/b", "/api/v1/public"]);
        for (path, place) in [
            ("/a", Place::Route(0)),
            ("/a/", Place::Route(0)),
            ("/a/x", Place::Route(0)),
            ("/ab", Place::Nowhere),
            ("/a/b", Place::Route(1)),
            ("/a/b/c", Place::Route(1)),
            ("/a/bc", Place::Route(0)),
            ("/A", Place::Nowhere),
            ("/", Place::Nowhere),
            ("*", Place::Nowhere),
            ("", Place::Nowhere),
            ("/healthz", Place::Own(Own::Alive)),
            ("/healthz/", Place::Nowhere),
            ("/health/ready", Place::Own(Own::Ready)),
            ("/api/v1/public/keys", Place::Own(Own::Keys)),
            ("/api/v1/public/auth/login", Place::Auth),
            ("/api/v1/public/authors", Place::Route(2)),
        ] {
            assert_eq!(table.place(path), place, "{path}");
        }
    }

    #[test]
    fn the_root_takes_whatever_is_left() {
        let table = table(&["/", "/a"]);
        assert_eq!([table.place("/"), table.place("/x"), table.place("/a/x")], [Place::Route(0), Place::Route(0), Place::Route(1)]);
        assert_eq!(table.place("/readyz"), Place::Own(Own::Serving));
    }

    #[test]
    fn a_path_that_a_backend_may_read_as_another_route_s_is_sure_of_none() {
        let table = table(&["/", "/shop", "/a/b", "/a~b"]);
        for sure in [
            "/",
            "/shop",
            "/shop/",
            "/shop//x",
            "/shop/a%20b;c=%2F",
            "/shop/%73hop",
            "//x",
            "/x;y",
            "/%73hopping",
            "/x/shop%2Fx",
            "/shop%",
            "/%2525",
            "/Shop",
            "/api/v1/public/auth/a%2Fb",
        ] {
            assert!(table.is_sure(table.place(sure), sure), "{sure}");
        }
        for unsure in [
            "/%73hop",
            "//shop",
            "/shop;x",
            "/shop;x/y",
            "/shop%2Fx",
            "/shop%3Bx",
            "/shop%5cx",
            "/\\shop",
            "/%2573hop",
            "/%252573hop",
            "/;/shop",
            "/a//b",
            "/a;x/b",
            "/a/%62/c",
            "/a%7Eb/c",
            "/api/v1/public/%61uth/login",
            "/api/v1//public/auth/login",
            "/%72eadyz",
            "//health/ready",
        ] {
            assert!(!table.is_sure(table.place(unsure), unsure), "{unsure}");
        }
    }

    #[test]
    fn labels_are_paths_of_ours_or_prefixes() {
        let table = table(&["/a"]);
        for (path, label) in [("/health", "/health"), ("/a/secret", "/a"), ("/x", "none"), ("/api/v1/public/auth/x", "/api/v1/public/auth")]
        {
            assert_eq!(&*table.label(&table.place(path), path), label);
        }
    }
}
