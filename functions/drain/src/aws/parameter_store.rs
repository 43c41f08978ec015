//! The stored documents, in SSM Parameter Store.
//!
//! The documents are the checkpoint, the state of the backfill, and the list of sent tables.
//!
//! Parameter Store has no conditional put. The slot's lock ensures that only one drainer writes.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::retry::RetryConfig;
use aws_sdk_ssm::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ssm::types::ParameterType;

use super::client::{FailureClass, classify};
use crate::continuity::checkpoint::Checkpoint;
use crate::ports::{StateStore, StateStoreError};

/// A parameter of SSM Parameter Store, by name.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    client: Client,
    /// The parameter's name.
    pub name: String,
    /// Type of a new parameter.
    new_type: ParameterType,
    /// Type of the stored parameter at the last read.
    ///
    /// `None` if no parameter was stored then.
    stored_type: Arc<Mutex<Option<ParameterType>>>,
}

impl StateStore for Parameter {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn store(&self, text: String) -> Result<(), StateStoreError> {
        // A retry could arrive after the next drainer's request, and set the checkpoint back. So each request
        // is sent once.
        let no_retry = aws_sdk_ssm::config::Builder::new().retry_config(RetryConfig::disabled());
        self.client
            .put_parameter()
            .name(&self.name)
            .value(text)
            .overwrite(true)
            .r#type(self.put_type())
            .customize()
            .config_override(no_retry)
            .send()
            .await
            .map(drop)
            .map_err(|error| self.error(&error))
    }
}

impl Parameter {
    /// A parameter that is not encrypted.
    pub(crate) fn plain(client: Client, name: String) -> Self {
        Parameter {
            client,
            name,
            new_type: ParameterType::String,
            stored_type: Arc::default(),
        }
    }

    /// A parameter that is encrypted by the key `alias/aws/ssm`, which AWS manages.
    ///
    /// The role needs no permission for this key. The policy of the key allows its use to each principal of
    /// the account that may use the parameter.
    pub(crate) fn encrypted(client: Client, name: String) -> Self {
        Parameter {
            new_type: ParameterType::SecureString,
            ..Parameter::plain(client, name)
        }
    }

    /// Whether the stored parameter lacks the encryption of a new one.
    ///
    /// The result is as of the last read. Earlier versions stored each parameter as `String`.
    pub(crate) fn lacks_encryption(&self) -> bool {
        self.new_type == ParameterType::SecureString && self.put_type() == ParameterType::String
    }

    /// The type for the next store.
    ///
    /// SSM refuses to change the type of a stored parameter (`HierarchyTypeMismatchException`). So a
    /// parameter keeps its type until it is deleted.
    fn put_type(&self) -> ParameterType {
        let stored = self.stored_type.lock().unwrap_or_else(PoisonError::into_inner);
        stored.clone().unwrap_or_else(|| self.new_type.clone())
    }

    /// The parameter's text; `None` when the parameter does not exist.
    ///
    /// # Errors
    /// The parameter cannot be read.
    pub(crate) async fn text(&self) -> Result<Option<String>, StateStoreError> {
        let request = self.client.get_parameter().name(&self.name);
        let parameter = match request.with_decryption(true).send().await {
            Ok(answer) => answer.parameter,
            Err(error) if classify(&error).0 == FailureClass::NotFound => None,
            Err(error) => return Err(self.error(&error)),
        };
        let stored_type = parameter.as_ref().and_then(|parameter| parameter.r#type.clone());
        *self.stored_type.lock().unwrap_or_else(PoisonError::into_inner) = stored_type;
        Ok(parameter.and_then(|parameter| parameter.value))
    }

    /// The stored checkpoint; `None` when the parameter does not exist.
    ///
    /// # Errors
    /// The parameter cannot be read, or its text is not a checkpoint.
    pub(crate) async fn load(&self) -> Result<Option<Checkpoint>, StateStoreError> {
        let Some(text) = self.text().await? else {
            return Ok(None);
        };
        let invalid = |source| StateStoreError::Invalid {
            parameter: self.name.clone(),
            source,
        };
        Checkpoint::parse(&text).map(Some).map_err(invalid)
    }

    /// Deletes the parameter. Returns false when it does not exist.
    ///
    /// # Errors
    /// The parameter cannot be deleted.
    pub(crate) async fn delete(&self) -> Result<bool, StateStoreError> {
        match self.client.delete_parameter().name(&self.name).send().await {
            Err(error) if classify(&error).0 == FailureClass::NotFound => Ok(false),
            answer => answer.map(|_| true).map_err(|error| self.error(&error)),
        }
    }

    fn error<E>(&self, error: &SdkError<E>) -> StateStoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let parameter = self.name.clone();
        let (class, source) = classify(error);
        match class {
            FailureClass::Expired | FailureClass::Throttled | FailureClass::Unavailable => {
                StateStoreError::Unavailable { parameter, source }
            }
            FailureClass::Denied => StateStoreError::Denied { parameter, source },
            FailureClass::NotFound | FailureClass::Other => StateStoreError::Refused { parameter, source },
        }
    }
}
