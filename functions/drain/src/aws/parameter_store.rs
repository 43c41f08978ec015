//! The checkpoint in SSM Parameter Store.
//!
//! Parameter Store has no conditional put. The slot's lock ensures that only one drainer writes.

use aws_config::retry::RetryConfig;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ssm::types::ParameterType;

use super::client::{Refusal, classify};
use crate::checkpoint::Checkpoint;
use crate::ports::{CheckpointError, StateStore};

/// A parameter of SSM Parameter Store, by name.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    /// The client.
    pub client: Client,
    /// The parameter's name.
    pub name: String,
}

impl StateStore for Parameter {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn store(&self, text: String) -> Result<(), CheckpointError> {
        // A retry could arrive after the next drainer's store, and set the checkpoint back. So each store is
        // sent once.
        let no_retry = aws_sdk_ssm::config::Builder::new().retry_config(RetryConfig::disabled());
        self.client
            .put_parameter()
            .name(&self.name)
            .value(text)
            .overwrite(true)
            .r#type(ParameterType::String)
            .customize()
            .config_override(no_retry)
            .send()
            .await
            .map(drop)
            .map_err(|error| self.error(&error))
    }
}

impl Parameter {
    /// The parameter's text; `None` when the parameter does not exist.
    ///
    /// # Errors
    /// The parameter cannot be read.
    pub(crate) async fn text(&self) -> Result<Option<String>, CheckpointError> {
        match self.client.get_parameter().name(&self.name).send().await {
            Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
            Err(error) if error.code() == Some("ParameterNotFound") => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// The stored checkpoint; `None` when the parameter does not exist.
    ///
    /// # Errors
    /// The parameter cannot be read, or its text is not a checkpoint.
    pub(crate) async fn load(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let Some(text) = self.text().await? else {
            return Ok(None);
        };
        let invalid = |source| CheckpointError::Invalid {
            parameter: self.name.clone(),
            source,
        };
        Checkpoint::parse(&text).map(Some).map_err(invalid)
    }

    /// Deletes the parameter. Returns false when it does not exist.
    ///
    /// # Errors
    /// The parameter cannot be deleted.
    pub(crate) async fn delete(&self) -> Result<bool, CheckpointError> {
        match self.client.delete_parameter().name(&self.name).send().await {
            Err(error) if error.code() == Some("ParameterNotFound") => Ok(false),
            answer => answer.map(|_| true).map_err(|error| self.error(&error)),
        }
    }

    fn error<E>(&self, error: &SdkError<E>) -> CheckpointError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let parameter = self.name.clone();
        let (refusal, source) = classify(error);
        match refusal {
            Refusal::Expired | Refusal::Throttled | Refusal::Unavailable => {
                CheckpointError::Unavailable { parameter, source }
            }
            Refusal::Denied => CheckpointError::Denied { parameter, source },
            Refusal::NotFound | Refusal::Other => CheckpointError::Refused { parameter, source },
        }
    }
}
