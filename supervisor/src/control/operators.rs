//! Who may change the suite, and how they are called in the trail.
//!
//! Whoever can connect to the control socket may look. To change something one must be root, the supervisor's own user, or an operator: a member of the group that
//! owns the socket or, where `[supervisor] operators` names some, one of those alone.
//!
//! The kernel says who connected: user and effective group (`SO_PEERCRED`), supplementary groups (`SO_PEERGROUPS`). The user database knows more groups, by the
//! user's name (getgrouplist(3)): those that somebody was made a member of after they had logged in.

use std::{
    ffi::CString,
    fmt, fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use gatehouse_chassis::{config::Section, connections::Credentials, exit::Fatal};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::{sync::Semaphore, time::timeout};

/// How long the user database may take. It may be on another machine that is part of what went wrong.
const LOOKUP: Duration = Duration::from_secs(1);
/// Lookups under way at most: each holds a thread for as long as the database is silent.
const LOOKUPS: usize = 4;
/// The longest name that root may claim to act for.
const MAX_CLAIM: usize = 64;

/// `[supervisor] control_group`, `operators`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The group that owns the control socket, and may come to it. Default: the supervisor's own.
    pub group: Option<String>,
    /// Who may change the suite besides root and the supervisor's own user. Default: the members of the group that owns the socket.
    pub operators: Vec<Operator>,
}

/// `alice`, `group:ops`; a number where there is no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One user.
    User(String),
    /// Every member of a group.
    Group(String),
}

impl Access {
    /// Reads the two keys.
    pub(crate) fn read(section: &mut Section<'_>) -> Self {
        let access = Self { group: section.key("control_group").optional(), operators: section.key("operators").list() };
        if let Some(problem) = access.group.as_deref().and_then(unknown_group) {
            section.problem("control_group", problem);
        }
        access
    }

    /// Whom nobody knows, and who would be denied when it matters. Asks the user database, which may be far away.
    pub(crate) fn unknown_operators(&self) -> impl Iterator<Item = String> {
        self.operators.iter().filter_map(Operator::unknown)
    }
}

impl Operator {
    /// Says so if there is no such user or group.
    fn unknown(&self) -> Option<String> {
        match self {
            Self::User(name) => is_unknown(name, &User::from_name(name)).then(|| format!("there is no user {name}")),
            Self::Group(name) => unknown_group(name),
        }
    }
}

fn unknown_group(name: &str) -> Option<String> {
    is_unknown(name, &Group::from_name(name)).then(|| format!("there is no group {name}"))
}

/// A number needs no name, and of a database that fails nobody knows.
fn is_unknown<T>(name: &str, found: &nix::Result<Option<T>>) -> bool {
    name.parse::<u32>().is_err() && matches!(found, Ok(None))
}

impl FromStr for Operator {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let operator = text.strip_prefix("group:").map_or_else(|| Self::User(text.to_owned()), |group| Self::Group(group.to_owned()));
        match &operator {
            Self::User(name) | Self::Group(name) if name.is_empty() || name.contains([':', '/', ' ']) => {
                Err("names no user; write `alice`, or `group:ops` for a group")
            }
            _ => Ok(operator),
        }
    }
}

/// The policy.
#[derive(Debug)]
pub(crate) struct Operators {
    own: Uid,
    own_name: String,
    rule: Arc<Rule>,
    lookups: Arc<Semaphore>,
}

#[derive(Debug)]
enum Rule {
    Members(Gid),
    Named(Vec<Operator>),
}

/// What the policy says of one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// `alice (uid 1000)`.
    pub(crate) actor: String,
    /// Root or the supervisor's own user, who could do all of this without asking.
    pub(crate) is_owner: bool,
    /// Or why not.
    pub(crate) permitted: Result<(), &'static str>,
}

impl Operators {
    /// Gives the control socket to its group, and lets that into the socket's directory.
    pub(crate) fn open(access: &Access, socket: &Path) -> Result<Self, Fatal> {
        let (own, mut group) = (Uid::effective(), Gid::effective());
        if let Some(name) = &access.group {
            group = find_group(name).ok_or_else(|| Fatal::config(format!("supervisor.control_group: there is no group {name}")))?;
            let directory = socket.parent().unwrap_or(socket);
            for (path, given) in [(socket, chown(socket, None, Some(group.as_raw()))), (directory, let_in(directory, group))] {
                given.map_err(|error| {
                    let why = format!("{} cannot be given to the group {name}: {error}", path.display());
                    Fatal::config(format!("supervisor.control_group: {why}; the supervisor's user must be a member"))
                })?;
            }
        }
        for problem in access.unknown_operators() {
            tracing::warn!("supervisor.operators: {problem}");
        }
        let own_name = name_of(own).unwrap_or_default();
        let rule = if access.operators.is_empty() { Rule::Members(group) } else { Rule::Named(access.operators.clone()) };
        Ok(Self { own, own_name, rule: Arc::new(rule), lookups: Arc::new(Semaphore::new(LOOKUPS)) })
    }

    /// Who that is, and whether they may change the suite. `claimed`: on whose behalf root says it acts.
    pub(crate) async fn admit(&self, peer: Option<Credentials>, claimed: Option<&str>) -> Admission {
        let denied = |actor: String, why| Admission { actor, is_owner: false, permitted: Err(why) };
        let Some(peer) = peer else { return denied("unknown".to_owned(), "the kernel does not say who you are") };
        let uid = Uid::from_raw(peer.uid);
        // These two must get through although nobody knows anybody's name any more.
        if uid.is_root() || uid == self.own {
            let name = if uid.is_root() { "root" } else { &self.own_name };
            let behalf = claimed.filter(|name| uid.is_root() && is_name(name)).map(|name| format!(" for {name}")).unwrap_or_default();
            return Admission { actor: actor(&format!("{name}{behalf}"), uid), is_owner: true, permitted: Ok(()) };
        }
        match self.look_up(peer).await {
            Some((name, true)) => Admission { actor: actor(&name, uid), is_owner: false, permitted: Ok(()) },
            Some((name, false)) => {
                denied(actor(&name, uid), "you are no operator of this suite (see [supervisor] operators); call as one, or as root")
            }
            None => denied(actor("", uid), "the user database does not answer, so nobody knows whether you are an operator; call as root"),
        }
    }

    /// The caller's name and whether the rule names them, unless the database keeps silent.
    async fn look_up(&self, peer: Credentials) -> Option<(String, bool)> {
        let (rule, lookups) = (Arc::clone(&self.rule), Arc::clone(&self.lookups));
        let found = async move {
            let permit = lookups.acquire_owned().await.ok()?;
            let found = tokio::task::spawn_blocking(move || {
                // With the thread, not with whoever waits for it.
                let _permit = permit;
                rule.look_up(&peer)
            });
            found.await.ok()
        };
        timeout(LOOKUP, found).await.ok().flatten()
    }
}

impl Rule {
    fn look_up(&self, peer: &Credentials) -> (String, bool) {
        let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten();
        let mut groups: Vec<_> = peer.groups.iter().chain([&peer.gid]).copied().map(Gid::from_raw).collect();
        if let Some(user) = &user {
            let named = CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
            groups.extend(named.unwrap_or_default());
        }
        let name = user.map(|user| user.name).unwrap_or_default();
        let is_named = |operator: &Operator| match operator {
            Operator::User(wanted) => *wanted == name || *wanted == peer.uid.to_string(),
            Operator::Group(wanted) => find_group(wanted).is_some_and(|group| groups.contains(&group)),
        };
        let permitted = match self {
            Self::Members(group) => groups.contains(group),
            Self::Named(operators) => operators.iter().any(is_named),
        };
        (name, permitted)
    }
}

/// Makes the directory the group's, unless everybody may pass through it. What another group could write, this one cannot.
fn let_in(directory: &Path, group: Gid) -> io::Result<()> {
    let found = fs::metadata(directory)?;
    if found.mode() & 0o001 != 0 || (found.gid() == group.as_raw() && found.mode() & 0o010 != 0) {
        return Ok(());
    }
    let set = |mode| fs::set_permissions(directory, fs::Permissions::from_mode(mode));
    let mut mode = found.mode() & 0o7777;
    if found.gid() != group.as_raw() {
        mode &= !0o020;
        set(mode)?;
        chown(directory, None, Some(group.as_raw()))?;
    }
    // Nor is what is made in it from now on anybody else's.
    set(mode & !0o2000 | 0o050)
}

fn find_group(name: &str) -> Option<Gid> {
    let by_name = Group::from_name(name).ok().flatten().map(|group| group.gid);
    by_name.or_else(|| name.parse().ok().map(Gid::from_raw))
}

fn name_of(uid: Uid) -> Option<String> {
    User::from_uid(uid).ok().flatten().map(|user| user.name)
}

fn actor(name: &str, uid: Uid) -> String {
    if name.is_empty() { format!("uid {uid}") } else { format!("{name} (uid {uid})") }
}

/// Nothing that could pass for more than a name.
fn is_name(text: &str) -> bool {
    (1..=MAX_CLAIM).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@\\".contains(&byte))
        && text != "root"
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Group(name) => write!(f, "group:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if the supervisor ran as a user that nobody here is.
    fn operators(rule: Rule) -> Operators {
        let own = Uid::from_raw(4_000_000);
        Operators { own, own_name: "gatehouse".into(), rule: Arc::new(rule), lookups: Arc::new(Semaphore::new(LOOKUPS)) }
    }

    fn named(operators: &[&str]) -> Rule {
        Rule::Named(operators.iter().map(|operator| operator.parse().unwrap()).collect())
    }

    fn peer(uid: u32, gid: u32) -> Credentials {
        Credentials { pid: None, uid, gid, groups: Arc::default() }
    }

    #[tokio::test]
    async fn root_and_the_supervisor_s_own_user_may_and_only_root_may_claim_to_act_for_another() {
        let operators = operators(named(&["nobody-at-all"]));
        let cases = [
            (peer(0, 0), None, "root (uid 0)"),
            (peer(0, 0), Some("alice"), "root for alice (uid 0)"),
            (peer(0, 0), Some("root"), "root (uid 0)"),
            (peer(0, 0), Some("a (uid 7) for b"), "root (uid 0)"),
            (peer(4_000_000, 1), Some("alice"), "gatehouse (uid 4000000)"),
        ];
        for (peer, claimed, actor) in cases {
            let admission = operators.admit(Some(peer), claimed).await;
            assert_eq!((admission.actor.as_str(), admission.is_owner, admission.permitted), (actor, true, Ok(())));
        }
    }

    #[tokio::test]
    async fn others_are_admitted_by_name_by_group_or_by_number() {
        // In every user database of this system: `daemon`, uid 1, in the group `daemon`, gid 1.
        let daemon = User::from_name("daemon").unwrap().unwrap();
        let (uid, gid) = (daemon.uid.as_raw(), daemon.gid.as_raw());
        let stranger = 3_999_999;
        let cases = [
            (named(&["daemon"]), peer(uid, stranger), true),
            (named(&["1"]), peer(uid, stranger), true),
            (named(&["group:daemon"]), peer(uid, stranger), true),
            (named(&["group:daemon"]), peer(stranger, gid), true),
            (named(&["alice", "group:3999998"]), peer(uid, gid), false),
            (named(&["3999999"]), peer(stranger, stranger), true),
            (Rule::Members(Gid::from_raw(gid)), peer(uid, stranger), true),
            (Rule::Members(Gid::from_raw(stranger)), peer(uid, gid), false),
            (Rule::Members(Gid::from_raw(stranger)), peer(uid, stranger), true),
            (Rule::Members(Gid::from_raw(stranger)), Credentials { groups: [7, stranger].into(), ..peer(uid, gid) }, true),
            (named(&["group:3999998"]), Credentials { groups: [3_999_998].into(), ..peer(stranger, gid) }, true),
        ];
        for (rule, peer, may) in cases {
            let told = format!("{rule:?} {peer:?}");
            let admission = operators(rule).admit(Some(peer), None).await;
            assert_eq!((admission.permitted.is_ok(), admission.is_owner), (may, false), "{told}");
        }
        assert_eq!(operators(named(&["daemon"])).admit(None, None).await.actor, "unknown", "and may nothing");
        let actors = [peer(uid, gid), peer(stranger, 0)].map(|peer| (peer, operators(named(&["x"]))));
        for ((peer, operators), actor) in actors.into_iter().zip(["daemon (uid 1)", "uid 3999999"]) {
            assert_eq!(operators.admit(Some(peer), Some("root")).await.actor, actor);
        }
    }

    #[tokio::test]
    async fn a_silent_user_database_keeps_out_strangers_and_nobody_else() {
        let operators = operators(named(&["daemon"]));
        // Every lookup is under way and none comes back.
        let _stuck = Arc::clone(&operators.lookups).acquire_many_owned(u32::try_from(LOOKUPS).unwrap()).await.unwrap();
        assert_eq!(operators.admit(Some(peer(0, 0)), None).await.permitted, Ok(()));
        let kept_out = operators.admit(Some(peer(1, 1)), None).await;
        assert!(kept_out.permitted.unwrap_err().contains("does not answer"));
        assert_eq!(kept_out.actor, "uid 1");
    }

    #[test]
    fn a_group_is_let_into_the_directory_with_no_more_than_it_needs() {
        if !Uid::effective().is_root() {
            return println!("not root: a group of which we are no member cannot be let in");
        }
        let dir = tempfile::tempdir().unwrap();
        let group = Gid::from_raw(3_999_999);
        // As it is made, open to its own group, open to everybody, and the group's already.
        for (owner, mode, expected) in [
            (0, 0o750, (3_999_999, 0o750)),
            (0, 0o770, (3_999_999, 0o750)),
            (0, 0o755, (0, 0o755)),
            (3_999_999, 0o2770, (3_999_999, 0o2770)),
        ] {
            chown(dir.path(), None, Some(owner)).unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let_in(dir.path(), group).unwrap();
            let found = fs::metadata(dir.path()).unwrap();
            assert_eq!((found.gid(), found.mode() & 0o7777), expected, "{mode:o}");
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for text in ["", "group:", "a b", "user:alice"] {
            assert!(text.parse::<Operator>().is_err(), "{text}");
        }
        assert_eq!("group:ops".parse::<Operator>().unwrap().to_string(), "group:ops");
    }
}
