//! A guest that hangs for good, and what its runtime does about it in the end (kata.md 2.3, 12): Go gives up after half
//! a minute and tears the pod down; runtime-rs exits after a minute and a half, and containerd removes what it left.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::fault::Fault;
use crate::kind::{Runtime, SimError};
use crate::node::Node;
use crate::vm::Fall;

const GO_GIVES_UP: Duration = Duration::from_secs(33);
const RUNTIME_RS_GIVES_UP: Duration = Duration::from_secs(95);

impl Node {
    /// Hangs the guest. The task ends once the sandbox is gone, or when it was healed before that.
    pub fn hang(self: &Arc<Self>, id: &str) -> Result<JoinHandle<Result<(), SimError>>, SimError> {
        self.set_fault(id, Some(Fault::HungGuest))?;
        let runtime = self.with(id, |sandbox| sandbox.spec.kind.runtime)?;
        let (node, id) = (Arc::clone(self), id.to_owned());
        Ok(tokio::spawn(async move { node.give_up(runtime, &id).await }))
    }

    async fn give_up(&self, runtime: Runtime, id: &str) -> Result<(), SimError> {
        sleep(if runtime == Runtime::Go { GO_GIVES_UP } else { RUNTIME_RS_GIVES_UP }).await;
        if !self.hangs(id) {
            return Ok(());
        }
        if runtime == Runtime::Rs {
            self.fall(id, Fall::Exited).await?;
        }
        self.remove(id).await
    }

    fn hangs(&self, id: &str) -> bool {
        let fault = self.with(id, |sandbox| sandbox.shim.fault.lock().unwrap_or_else(PoisonError::into_inner).clone());
        fault.is_ok_and(|fault| fault == Some(Fault::HungGuest))
    }
}
