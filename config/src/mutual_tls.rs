//! The TLS by which gateway and backend know each other.

use std::{fmt::Display, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, InconsistentKeys, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{Resumption, danger::HandshakeSignatureValid, verify_server_name},
    crypto::{CryptoProvider, ring},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{error::Invalid, pem, schema::ChannelTls};

/// What one end of the channel shows the other, and what it wants to be shown.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MutualTls {
    /// The section of the settings that says so.
    section: &'static str,
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    name: ServerName<'static>,
}

/// The same with its files read.
pub struct Credentials {
    settings: MutualTls,
    /// Our own certificate and those above it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the first of them.
    pub key: PrivateKeyDer<'static>,
    /// Who may sign the other's certificate.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// Lets in whoever is signed by an authority, and under one name.
#[derive(Debug)]
struct Named {
    signed: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl MutualTls {
    /// The whole `section` of the settings, which the setting `needed_by` makes necessary. `host` is
    /// the other's name where none is `written`.
    pub fn new(
        section: &'static str,
        written: &ChannelTls,
        needed_by: &str,
        host: Option<&str>,
    ) -> Result<Self, Invalid> {
        let missing = |field| {
            let reason = format!("is not set, and {needed_by} needs it");
            Invalid::new(format!("{section}.{field}"), reason)
        };
        let file = |field, file: &Option<PathBuf>| file.clone().ok_or_else(|| missing(field));
        let name = written.name.as_deref().or(host).ok_or_else(|| missing("name"))?;
        let unnamed =
            || Invalid::new(format!("{section}.name"), "must be a host name or an address");
        Ok(Self {
            section,
            certificate: file("certificate", &written.certificate)?,
            key: file("key", &written.key)?,
            ca: file("ca", &written.ca)?,
            name: server_name(name).ok_or_else(unnamed)?,
        })
    }

    /// The name in the other's certificate.
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Reads the files. An error names the setting and the file.
    pub fn read(&self) -> Result<Credentials, Invalid> {
        let chain = pem::certificates(&self.certificate);
        let key = pem::private_key(&self.key);
        let authorities = pem::certificates(&self.ca);
        Ok(Credentials {
            chain: chain.map_err(|error| self.invalid("certificate", error))?,
            key: key.map_err(|error| self.invalid("key", error))?,
            authorities: authorities.map_err(|error| self.invalid("ca", error))?,
            settings: self.clone(),
        })
    }

    fn invalid(&self, field: &str, reason: impl Display) -> Invalid {
        Invalid::new(format!("{}.{field}", self.section), reason.to_string())
    }
}

impl Credentials {
    /// How the gateway connects. The backend is to show a certificate of its name.
    pub fn client(&self) -> Result<ClientConfig, Invalid> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| self.unusable(error))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain()?, self.key.clone_key())
            .map_err(|error| self.unusable(error))?;
        config.alpn_protocols = vec![HTTP1.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// How the backend accepts. The gateway is to show a certificate of its name.
    pub fn server(&self) -> Result<ServerConfig, Invalid> {
        let signed =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
                .build()
                .map_err(|error| self.settings.invalid("ca", error))?;
        let verifier = Arc::new(Named { signed, name: self.settings.name.clone() });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| self.unusable(error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain()?, self.key.clone_key())
            .map_err(|error| self.unusable(error))?;
        config.alpn_protocols = vec![HTTP1.to_vec()];
        // Every connection is proven anew: what is resumed was judged by the settings of its time.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Our certificates, every one of which is one.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Invalid> {
        for each in &self.chain {
            ParsedCertificate::try_from(each).map_err(|error| self.unusable(error))?;
        }
        Ok(self.chain.clone())
    }

    fn roots(&self) -> Result<RootCertStore, Invalid> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone()).map_err(|error| {
                let file = self.settings.ca.display();
                self.settings.invalid("ca", format!("{file}: holds no usable certificate: {error}"))
            })?;
        }
        Ok(roots)
    }

    /// What the library has against our own certificate or key.
    fn unusable(&self, error: Error) -> Invalid {
        let MutualTls { certificate, key, .. } = &self.settings;
        let (certificate, key) = (certificate.display(), key.display());
        match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let reason = format!("{key}: is not the key of the certificate in {certificate}");
                self.settings.invalid("key", reason)
            }
            error => self.settings.invalid("certificate", format!("{certificate}: {error}")),
        }
    }
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.signed.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// The name of a host, or its address. Underscores stand in no host name, and some libraries read
/// them as dashes.
pub fn server_name(text: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(text.to_owned()).ok().filter(|_| !text.contains('_'))
}

/// Named here, so that it does not matter which one the process has installed.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The one protocol that is spoken, so that nothing is said to a server of another.
const HTTP1: &[u8] = b"http/1.1";

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::{ClientConnection, ConnectionCommon, ServerConnection, version::TLS12};
    use tempfile::TempDir;

    use super::*;

    /// An authority, and the certificates that it has signed.
    struct Authority {
        folder: TempDir,
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    #[test]
    fn each_end_knows_the_other_by_authority_and_name() {
        let ours = Authority::new();
        let (gateway, backend) = (ours.end("gateway", "backend"), ours.end("backend", "gateway"));

        assert_eq!(shake(client(&gateway), server(&backend)), Ok(()));
    }

    #[test]
    fn the_backend_lets_in_no_stranger() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let backend = ours.end("backend", "gateway");
        let forged = MutualTls { ca: backend.ca.clone(), ..theirs.end("gateway", "backend") };
        let read = ours.end("gateway", "backend").read().unwrap();
        let nobody = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(read.roots().unwrap())
            .with_no_client_auth();

        for (whose, client) in [
            ("of another authority", client(&forged)),
            ("of another name", client(&ours.end("other", "backend"))),
            ("the backend's own", client(&ours.end("backend", "backend"))),
            ("none", nobody),
        ] {
            assert!(shake(client, server(&backend)).is_err(), "certificate: {whose}");
        }
    }

    #[test]
    fn the_gateway_speaks_to_no_impostor() {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let gateway = ours.end("gateway", "backend");
        let forged = MutualTls { ca: gateway.ca.clone(), ..theirs.end("backend", "gateway") };

        for (whose, server) in [
            ("of another authority", server(&forged)),
            ("of another name", server(&ours.end("other", "gateway"))),
        ] {
            assert!(shake(client(&gateway), server).is_err(), "certificate: {whose}");
        }
    }

    #[test]
    fn nothing_older_than_tls_1_3_is_spoken() {
        let ours = Authority::new();
        let (gateway, backend) = (ours.end("gateway", "backend"), ours.end("backend", "gateway"));
        let (shown, wanted) = (gateway.read().unwrap(), backend.read().unwrap());
        let old = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(shown.roots().unwrap())
            .with_client_auth_cert(shown.chain().unwrap(), shown.key.clone_key())
            .unwrap();
        assert!(shake(old, server(&backend)).is_err(), "the gateway's TLS");

        let old = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(wanted.chain().unwrap(), wanted.key.clone_key())
            .unwrap();
        assert!(shake(client(&gateway), old).is_err(), "the backend's TLS");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_by_setting_and_file() {
        let ours = Authority::new();
        let whole = ours.end("gateway", "backend");
        let file = |name: &str, text: &str| {
            let path = ours.folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let (empty, garbage) = (file("empty.pem", ""), file("garbage.pem", garbage));
        let refused = |wrong: MutualTls| {
            let read = wrong.read();
            read.and_then(|read| read.client()).err().map(|error| error.to_string()).unwrap()
        };

        for wrong in [PathBuf::from("/nowhere.pem"), empty, garbage] {
            let path = wrong.display().to_string();
            let told = refused(MutualTls { certificate: wrong.clone(), ..whole.clone() });
            assert!(told.starts_with(&format!("section.certificate: {path}: ")), "{told}");
            let told = refused(MutualTls { ca: wrong.clone(), ..whole.clone() });
            assert!(told.starts_with(&format!("section.ca: {path}: ")), "{told}");
            let told = refused(MutualTls { key: wrong, ..whole.clone() });
            assert!(told.starts_with(&format!("section.key: {path}: ")), "{told}");
        }
        let told = refused(MutualTls { key: ours.end("other", "x").key, ..whole });
        assert!(told.contains("is not the key of the certificate in"), "{told}");
    }

    #[test]
    fn a_section_is_whole_or_refused() {
        let path = || Some(PathBuf::from("/some.pem"));
        let whole = ChannelTls {
            certificate: path(),
            key: path(),
            ca: path(),
            name: Some("gateway".to_owned()),
        };
        let new = |written: &ChannelTls, host| {
            let made = MutualTls::new("section", written, "backend.listen", host);
            made.map(|made| made.name).map_err(|error| error.to_string())
        };
        let gateway = Ok(ServerName::try_from("gateway").unwrap());

        assert_eq!(new(&whole, None), gateway);
        let unnamed = ChannelTls { name: None, ..whole.clone() };
        assert_eq!(new(&unnamed, Some("gateway")), gateway);
        for (part, missing) in [
            ("name", unnamed),
            ("certificate", ChannelTls { certificate: None, ..whole.clone() }),
            ("key", ChannelTls { key: None, ..whole.clone() }),
            ("ca", ChannelTls { ca: None, ..whole.clone() }),
        ] {
            let told = format!("section.{part}: is not set, and backend.listen needs it");
            assert_eq!(new(&missing, None), Err(told));
        }
        for name in ["", "two words", "under_score", "-"] {
            let named = ChannelTls { name: Some(name.to_owned()), ..whole.clone() };
            assert!(new(&named, None).unwrap_err().starts_with("section.name: "), "{name}");
        }
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer =
                CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
            Self { folder, issuer }
        }

        /// The end of the channel called `own`, which expects the one called `other`.
        fn end(&self, own: &str, other: &str) -> MutualTls {
            let file = |name: String| self.folder.path().join(name);
            let (certificate, key) = (file(format!("{own}.pem")), file(format!("{own}.key")));
            let pair = KeyPair::generate().unwrap();
            let params = CertificateParams::new([own.to_owned()]).unwrap();
            fs::write(&certificate, params.signed_by(&pair, &self.issuer).unwrap().pem()).unwrap();
            fs::write(&key, pair.serialize_pem()).unwrap();
            let ca = file("ca.pem".to_owned());
            let name = server_name(other).unwrap();
            MutualTls { section: "section", certificate, key, ca, name }
        }
    }

    fn client(end: &MutualTls) -> ClientConfig {
        end.read().unwrap().client().unwrap()
    }

    fn server(end: &MutualTls) -> ServerConfig {
        end.read().unwrap().server().unwrap()
    }

    /// Carries the bytes of a handshake to and fro until both ends are content, or one is not.
    fn shake(client: ClientConfig, server: ServerConfig) -> Result<(), Error> {
        let backend = ServerName::try_from("backend").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), backend)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            carry(&mut client, &mut server)?;
            carry(&mut server, &mut client)?;
        }
        Ok(())
    }

    fn carry<A, B>(
        from: &mut ConnectionCommon<A>,
        to: &mut ConnectionCommon<B>,
    ) -> Result<(), Error> {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            to.read_tls(&mut bytes).unwrap();
            to.process_new_packets()?;
        }
        Ok(())
    }
}
