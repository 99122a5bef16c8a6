//! The list, asked for id by id: for a runtime whose whole list does not fit into one message.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use tracing::debug;

use super::client::{Client, CriError};
use crate::sandbox::{Identity, SandboxId};

/// Asked for at once; each is answered from the runtime's memory.
const PARALLEL: usize = 8;

/// What the runtime knows of `ids`. One that could not be asked for keeps what `known` says; only when none could be
/// asked for it is an error.
pub(super) async fn list(
    client: &Client,
    ids: Vec<SandboxId>,
    known: &BTreeMap<SandboxId, Identity>,
) -> Result<BTreeMap<SandboxId, Identity>, CriError> {
    let (mut names, mut failed, total) = (BTreeMap::new(), 0, ids.len());
    let (mut waiting, mut asking) = (ids.into_iter(), JoinSet::new());
    loop {
        while asking.len() < PARALLEL
            && let Some(id) = waiting.next()
        {
            let client = client.clone();
            asking.spawn(async move { (client.list_one(&id).await, id) });
        }
        let Some(joined) = asking.join_next().await else { return Ok(names) };
        match joined {
            Ok((Ok(identity), id)) => names.extend(identity.map(|identity| (id, identity))),
            Ok((Err(error), id)) => {
                failed += 1;
                if failed == total {
                    return Err(error);
                }
                debug!(sandbox_id = %id, error = &error as &dyn std::error::Error, "not listed by its id");
                names.extend(known.get(&id).map(|identity| (id, identity.clone())));
            }
            // Cancelled with the agent.
            Err(_) => {}
        }
    }
}
