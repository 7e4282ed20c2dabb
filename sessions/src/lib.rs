//! Device sessions as edge and pusher both need them: cache, revocation feed, request verification, replay reservation.
