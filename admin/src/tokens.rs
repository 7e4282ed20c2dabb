//! API tokens: 32 random bytes each, of which the database keeps the hash alone. The first one is made at the first start and left in a file for the
//! operator.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gatehouse_chassis::metrics::Metrics;
use gatehouse_migrations::{Connection, Database, on};
use gatehouse_proto::keys::sha256;
use prometheus::IntCounterVec;
use sqlx::{query, query_as};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// The file under the state directory that holds the first token.
pub const FILE: &str = "admin.token";
/// The first token's name.
const FIRST: &str = "admin";
/// Random bytes of a token.
const BYTES: usize = 32;

/// The tokens that are known; clones share them.
#[derive(Clone, Debug)]
pub struct Tokens {
    known: Arc<[Token]>,
    used: IntCounterVec,
}

/// One token, as the database knows it.
#[derive(Clone, Debug)]
pub struct Token {
    /// Stands in audit records.
    pub id: String,
    /// Stands in metrics.
    pub name: String,
    sha256: Vec<u8>,
}

impl Tokens {
    /// Reads them; makes the first one when there is none.
    pub async fn open(database: &Database, state_dir: &Path, metrics: &Metrics) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let mut connection = database.connect().await?;
        let mut known = read(&mut connection).await?;
        let kept = stored(&path).with_context(|| format!("read {}", path.display()))?;
        if known.is_empty() {
            // A token of an earlier database, or of a start that got no further, goes on being good.
            let token = match kept {
                Some(token) => token,
                None => make(&path).with_context(|| format!("write {}", path.display()))?,
            };
            insert(&mut connection, FIRST, &token).await?;
            known = read(&mut connection).await?;
            tracing::info!(path = %path.display(), token = FIRST, "the operator's API token is in this file");
        } else if let Some(token) = kept {
            if !known.iter().any(|known| known.matches(&token)) {
                tracing::warn!(path = %path.display(), "the API token in this file is not one that the database knows");
            }
        } else {
            tracing::info!(path = %path.display(), "there is no API token in this file; tokens handed out before stay good");
        }
        connection.close().await;
        let used = metrics.counters("api_token_requests_total", "Requests to the operator API by the token's name.", &["token"]);
        Ok(Self { known: known.into(), used })
    }

    /// The token that was presented. Takes as long for any wrong one.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<&Token> {
        let mut found = None;
        for token in self.known.iter() {
            if token.matches(presented) {
                found = Some(token);
            }
        }
        if let Some(token) = found {
            self.used.with_label_values(&[&token.name]).inc();
        }
        found
    }
}

impl Token {
    fn matches(&self, presented: &str) -> bool {
        self.sha256.ct_eq(&sha256(presented.as_bytes())).into()
    }
}

async fn read(connection: &mut Connection) -> anyhow::Result<Vec<Token>> {
    let sql = "SELECT id, name, sha256 FROM api_tokens ORDER BY created_at_ms, id";
    let rows: Vec<(String, String, Vec<u8>)> = on!(connection, c => query_as(sql).fetch_all(c).await?);
    Ok(rows.into_iter().map(|(id, name, sha256)| Token { id, name, sha256 }).collect())
}

/// Two first starts at once make one token between them: the name is unique.
async fn insert(connection: &mut Connection, name: &str, token: &str) -> anyhow::Result<()> {
    let sql = "INSERT INTO api_tokens (id, name, sha256, created_at_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    let (id, hash, now) = (Uuid::new_v4().to_string(), sha256(token.as_bytes()).to_vec(), jiff::Timestamp::now().as_millisecond());
    on!(connection, c => query(sql).bind(id).bind(name).bind(hash).bind(now).execute(c).await.map(|_| ()))?;
    Ok(())
}

/// What the file holds; `None` when there is none, or no token of ours in it.
fn stored(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| URL_SAFE_NO_PAD.decode(token).is_ok_and(|raw| raw.len() == BYTES))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a token and has it on disk before the database knows of it. Written aside and renamed, so that no start finds half of one.
fn make(path: &Path) -> anyhow::Result<String> {
    let mut raw = [0; BYTES];
    getrandom::fill(&mut raw)?;
    let token = URL_SAFE_NO_PAD.encode(raw);
    let aside = path.with_extension("token.new");
    if let Err(error) = fs::remove_file(&aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(token)
}
