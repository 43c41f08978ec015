//! Duplicates in a stream.

use scenarios::aws::fault_proxy::Fault;
use scenarios::fixture::Fixture;

/// Sends changes without storing the checkpoint. The next tick sends them again.
pub(crate) async fn send_without_checkpoint(fixture: &Fixture) {
    let denied = Fault::refuse("AccessDeniedException", "the scenario denies it");
    fixture.ssm_proxy.inject("PutParameter", denied);
    fixture.failing_tick().await;
    fixture.ssm_proxy.clear();
}
