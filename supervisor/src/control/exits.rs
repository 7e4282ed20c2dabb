//! `Exits`: the newest records of the ledger.

use gatehouse_proto::internal::v1::{ExitRecord, ExitsRequest, ExitsResponse};
use tonic::Status;

use super::component;
use crate::{component::Component, ledger::Ledger};

/// Records, when no number is asked for.
const DEFAULT: usize = 50;

/// Newest first.
pub(super) fn answer(ledger: &Ledger, request: &ExitsRequest) -> Result<ExitsResponse, Status> {
    let component = component(&request.component)?.map(Component::name);
    let fits = |record: &ExitRecord| {
        component.is_none_or(|name| record.component == name) && request.instance.is_none_or(|instance| record.instance == instance)
    };
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(DEFAULT);
    Ok(ExitsResponse { exits: ledger.newest(fits, limit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_one_component_or_instance_are_found_and_unknown_names_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path());
        for (component, instance) in [("edge", 0), ("pusher", 0), ("pusher", 1), ("pusher", 1)] {
            ledger.record(&ExitRecord { component: component.into(), instance, ..ExitRecord::default() });
        }
        let found = |component: &str, instance, limit| {
            answer(&ledger, &ExitsRequest { component: component.into(), instance, limit }).map(|found| found.exits.len())
        };
        assert_eq!(found("", None, 0).unwrap(), 4);
        assert_eq!(found("", None, 3).unwrap(), 3);
        assert_eq!(found("pusher", None, 0).unwrap(), 3);
        assert_eq!(found("pusher", Some(1), 0).unwrap(), 2);
        assert_eq!(found("egde", None, 0).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
