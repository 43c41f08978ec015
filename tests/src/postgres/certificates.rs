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

/// Options of openssl for keys and for signatures.
pub type KeyOptions = [&'static str; 2];

/// Keys that are created quickly.
const QUICK: KeyOptions = ["ec -pkeyopt ec_paramgen_curve:prime256v1", "-sha256"];

/// Keys of the authorities that RDS offers: `rds-ca-rsa2048-g1`, `rds-ca-rsa4096-g1` and `rds-ca-ecc384-g1`.
pub const RDS: [KeyOptions; 3] = [
    ["rsa:2048", "-sha256"],
    ["rsa:4096", "-sha384"],
    ["ec -pkeyopt ec_paramgen_curve:secp384r1", "-sha384"],
];

const SCRIPT: &str = r#"
set -e
key="-newkey $2 -nodes $3"
for name in authority stranger; do
    openssl req -x509 $key -days 2 -subj "/CN=$name" -keyout $name.key -out $name.pem
done
openssl req $key -subj "/CN=server" -keyout server.key -out server.csr
printf 'subjectAltName=DNS:%s\nbasicConstraints=critical,CA:FALSE\n' "$1" > server.ext
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 $3 \
    -extfile server.ext -out server.pem
"#;

impl Certificates {
    /// Creates the files in `folder`.
    pub fn create_in(folder: &Path) -> Self {
        create(folder, QUICK);
        Self {
            authority: folder.join("authority.pem"),
            stranger: folder.join("stranger.pem"),
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
        }
    }

    /// Replaces all files by certificates with other keys. The server must read them again.
    pub fn renew(&self, keys: KeyOptions) {
        let folder = self.key.parent().unwrap_or(Path::new("."));
        // RSA keys take seconds, and other scenarios share the runtime.
        tokio::task::block_in_place(|| create(folder, keys));
    }
}

/// Creates all files, or replaces their content.
fn create(folder: &Path, [key, digest]: KeyOptions) {
    let made = Command::new("sh")
        .args(["-c", SCRIPT, "certificates", HOST, key, digest])
        .current_dir(folder)
        .output();
    let made = made.unwrap_or_else(|error| panic!("cannot start sh: {error}"));
    assert!(
        made.status.success(),
        "no certificates:\n{}",
        String::from_utf8_lossy(&made.stderr)
    );
}
