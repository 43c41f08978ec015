//! The checkpoint in SSM Parameter Store. There is no conditional put: that only one drainer writes is the lock's promise.

use aws_config::retry::RetryConfig;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ssm::types::ParameterType;

use super::client::{Refusal, classify};
use crate::checkpoint::Checkpoint;
use crate::ports::{CheckpointError, StateStore};

/// A parameter, by name.
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
        let put = self
            .client
            .put_parameter()
            .name(&self.name)
            .value(text)
            .overwrite(true);
        // Once: a second attempt could arrive after the store of whoever drains next.
        let once = aws_sdk_ssm::config::Builder::new().retry_config(RetryConfig::disabled());
        put.r#type(ParameterType::String)
            .customize()
            .config_override(once)
            .send()
            .await
            .map(drop)
            .map_err(|error| self.error(&error))
    }
}

impl Parameter {
    /// Reads its text; `None` when it is not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) async fn text(&self) -> Result<Option<String>, CheckpointError> {
        match self.client.get_parameter().name(&self.name).send().await {
            Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
            Err(error) if error.code() == Some("ParameterNotFound") => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// Reads the checkpoint; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, or is not one.
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

    /// Deletes it; false when it was not there.
    ///
    /// # Errors
    /// It cannot be deleted.
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
