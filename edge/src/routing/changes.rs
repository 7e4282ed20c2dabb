//! What a reload changes, in words: an operator reads it back as the proof that the file says what was meant.

use std::collections::BTreeMap;

use crate::config::{Config, Overload};

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

type Things = BTreeMap<String, String>;

fn compare(kind: &str, before: &Things, now: &Things, lines: &mut Vec<String>) {
    for (name, what) in now {
        match before.get(name) {
            None => lines.push(format!("{kind} {name}: new, {what}")),
            Some(was) if was != what => lines.push(format!("{kind} {name}: {what}; was {was}")),
            Some(_) => {}
        }
    }
    lines.extend(before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{kind} {name}: gone")));
}

/// Whatever is set for one, so that nothing changes silently; there are no secrets in it.
fn backends(config: &Config) -> Things {
    config
        .backends
        .iter()
        .map(|backend| (backend.name.clone(), format!("{} {} {:?}", backend.protocol, backend.address.authority(), backend.timeout)))
        .collect()
}

fn backend(config: &Config, backend: usize) -> &str {
    config.backends.get(backend).map_or("", |backend| &backend.name)
}

fn commands(config: &Config) -> Things {
    let command = |command: &crate::config::Command| {
        let crate::config::Command { message_type, backend: to, timeout, audit, priority } = command;
        (message_type.clone(), format!("to {} within {timeout:?}, audit {audit}, {priority}", backend(config, *to)))
    };
    config.commands.iter().map(command).collect()
}

fn routes(config: &Config) -> Things {
    let route = |route: &crate::config::Route| {
        let crate::config::Route { prefix, backend: to, strip_prefix, audit, priority } = route;
        let strip = if *strip_prefix { ", without its prefix" } else { "" };
        (prefix.clone(), format!("to {}{strip}, audit {audit}, {priority}", backend(config, *to)))
    };
    let auth = config.auth.map(|auth| (crate::config::AUTH_PREFIX.to_owned(), format!("to {}", backend(config, auth))));
    config.routes.iter().map(route).chain(auth).collect()
}

fn overload(overload: &Overload) -> String {
    let Overload { floor, ceiling, target, per_backend } = overload;
    format!("{floor} to {ceiling} in flight, target {target:?}, {per_backend} for each backend")
}
