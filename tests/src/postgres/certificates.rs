//! Certificates for TLS, created with `openssl`.
//!
//! There are two authorities. The first signs a server certificate for the name `localhost` only, so
//! `PGHOST=127.0.0.1` is the wrong host.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Paths of the files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// Authority that signed the server's certificate.
    pub authority: PathBuf,
    /// Another authority.
    pub stranger: PathBuf,
    /// Certificate of the server.
    pub certificate: PathBuf,
    /// Private key of the server.
    pub key: PathBuf,
}

/// Only host name in the server's certificate.
pub const HOST: &str = "localhost";

const SCRIPT: &str = r#"
set -e
curve="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256"
for name in authority stranger; do
    openssl req -x509 $curve -days 2 -subj "/CN=$name" -keyout $name.key -out $name.pem
done
openssl req $curve -subj "/CN=server" -keyout server.key -out server.csr
printf 'subjectAltName=DNS:%s\nbasicConstraints=critical,CA:FALSE\n' "$1" > server.ext
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -sha256 \
    -extfile server.ext -out server.pem
"#;

impl Certificates {
    /// Creates the files in `folder`.
    pub fn make(folder: &Path) -> Self {
        let made = Command::new("sh")
            .args(["-c", SCRIPT, "certificates", HOST])
            .current_dir(folder)
            .output();
        let made = made.unwrap_or_else(|error| panic!("cannot start sh: {error}"));
        assert!(
            made.status.success(),
            "no certificates:\n{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self {
            authority: folder.join("authority.pem"),
            stranger: folder.join("stranger.pem"),
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
        }
    }
}
