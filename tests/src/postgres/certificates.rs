//! Certificates for a server of ours, made by `openssl`: two authorities that do not know each other, and a server
//! certificate for the name `localhost` alone, signed by the first. `PGHOST=127.0.0.1` is then the wrong host.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the files lie.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority that signed the server's certificate.
    pub authority: PathBuf,
    /// One that did not.
    pub stranger: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The only host name in the server's certificate.
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
    /// Makes them in `folder`.
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
