//! Publishes login events as any service would: idempotent, no transaction.
