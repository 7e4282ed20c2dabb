//! What a reload changes, in words: an operator reads it back as the proof that the file says what was meant.

use std::collections::BTreeMap;

use crate::config::{AUTH_PREFIX, Auth, Backend, Command, Config, Overload, Route};

/// A line for each thing that is new, gone or different.
pub(super) fn changes(before: &Config, now: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    compare("backend", &backends(before), &backends(now), &mut lines);
    compare("command", &commands(before), &commands(now), &mut lines);
    compare("route", &routes(before), &routes(now), &mut lines);
    if before.overload != now.overload {
        lines.push(format!("overload: {}", overload(&now.overload)));
    }
    lines
}

/// By name: what is said of it, and all there is to it. There are no secrets in it.
type Things = BTreeMap<String, (String, String)>;

fn compare(kind: &str, before: &Things, now: &Things, lines: &mut Vec<String>) {
    for (name, (what, whole)) in now {
        match before.get(name) {
            None => lines.push(format!("{kind} {name}: new, {what}")),
            Some((was, _)) if was != what => lines.push(format!("{kind} {name}: {what}; was {was}")),
            Some((_, all)) if all != whole => lines.push(format!("{kind} {name}: other settings")),
            Some(_) => {}
        }
    }
    lines.extend(before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{kind} {name}: gone")));
}

fn backends(config: &Config) -> Things {
    let backend = |backend: &Backend| {
        let at: Vec<_> = backend.addresses.iter().map(ToString::to_string).collect();
        let what = format!("{} at {}, within {:?}", backend.protocol, at.join(", "), backend.timeout);
        (backend.name.clone(), (what, format!("{backend:?}")))
    };
    config.backends.iter().map(backend).collect()
}

/// Its name: numbers differ from file to file.
fn backend(config: &Config, backend: usize) -> &str {
    config.backends.get(backend).map_or("", |backend| &backend.name)
}

fn commands(config: &Config) -> Things {
    let command = |command: &Command| {
        let Command { message_type, backend: to, timeout, audit, priority, .. } = command;
        let what = format!("to {} within {timeout:?}, audit {audit}, {priority}", backend(config, *to));
        (message_type.clone(), (what, format!("{:?}", Command { backend: 0, ..command.clone() })))
    };
    config.commands.iter().map(command).collect()
}

fn routes(config: &Config) -> Things {
    let route = |route: &Route| {
        let Route { prefix, backend: to, strip_prefix, audit, priority, .. } = route;
        let strip = if *strip_prefix { ", without its prefix" } else { "" };
        let what = format!("to {}{strip}, audit {audit}, {priority}", backend(config, *to));
        (prefix.clone(), (what, format!("{:?}", Route { backend: 0, ..route.clone() })))
    };
    let auth = config.auth.map(|auth| {
        (AUTH_PREFIX.to_owned(), (format!("to {}", backend(config, auth.backend)), format!("{:?}", Auth { backend: 0, ..auth })))
    });
    config.routes.iter().map(route).chain(auth).collect()
}

fn overload(overload: &Overload) -> String {
    let Overload { floor, ceiling, target, per_backend } = overload;
    format!("{floor} to {ceiling} in flight, target {target:?}, {per_backend} for each backend")
}
