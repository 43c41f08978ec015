//! The edges to AWS: Kinesis, SSM Parameter Store, Secrets Manager, and the IAM token of RDS.

pub(crate) mod client;
pub(crate) mod kinesis;
pub(crate) mod parameter_store;
mod put_records_body;
pub(crate) mod rds_token;
pub(crate) mod secret;
