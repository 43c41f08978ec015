//! AWS services on loopback: emulators, a fake Kinesis, a fake SSM, and a proxy that injects faults.

pub mod aggregate;
pub mod alarms;
pub(crate) mod child_shards;
pub(crate) mod emulator;
pub(crate) mod endpoint;
pub mod fake_kinesis;
pub mod fake_ssm;
pub mod fault_proxy;
pub mod hash_range;
pub mod kinesis;
pub mod put_log;
pub(crate) mod put_records;
pub mod sdk;
pub mod ssm;
pub mod stack;
pub mod template;
