//! One order, from the account to the chain (RFC 8555 section 7). Whatever has to be found again
//! after the death of this process is kept before the step that needs it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus,
};
use sumun_certificates::{Identity, Leaf, make};
use sumun_config::checked::{self, AcmeChallenge, CertifiedName, KeyType};
use sumun_engine::acme::{Challenges, Names, Pledge};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::care::Store;
use crate::fault::{Fault, Side, is_lost_account, kind, words};
use crate::fetch::{Line, now};
use crate::limits::{CHAIN_BYTES, LOOK_PAUSE, NONCE_ROUNDS, ORDER_PATIENCE, ORDER_URL_BYTES};
use crate::progress::{Placed, Progress};
use crate::schedule::Window;

/// All that an order is made with.
pub(crate) struct Job<'a> {
    pub(crate) acme: &'a checked::Acme,
    pub(crate) names: &'a Names,
    pub(crate) store: &'a Store,
    pub(crate) challenges: &'a Arc<Challenges>,
    /// Live longer than this try: the authority may come later.
    pub(crate) pledges: &'a RefCell<Vec<Pledge>>,
    pub(crate) line: Line,
    /// Of the external account.
    pub(crate) hmac_key: Option<Zeroizing<Vec<u8>>>,
    /// Two certificates with one account make it once.
    pub(crate) account_turn: Rc<tokio::sync::Mutex<()>>,
    /// The authority has the order: others are told.
    pub(crate) on_placed: Box<dyn Fn() + 'a>,
    /// The certificate that the new one takes the place of, where the authority wants to know.
    pub(crate) replaces: Option<CertificateIdentifier<'static>>,
}

/// How far it went.
pub(crate) enum Ended {
    /// The key and the chain in PEM, and what the certificate says.
    Issued(Zeroizing<String>, Leaf),
    /// The order is with the authority, which takes its time.
    Waiting,
}

impl Job<'_> {
    /// Begins an order, or goes on with the one that `progress` knows.
    pub(crate) async fn obtain(&self, progress: &mut Progress) -> Result<Ended, Fault> {
        let mut account = self.account(None).await?;
        let known = match progress.order.as_ref().map(|placed| placed.url.clone()) {
            Some(url) => match patiently(async || account.order(url.clone()).await).await {
                Ok(order) => Some(order),
                // It has forgotten it, or whose it was.
                Err(Error::Api(problem)) if kind(&problem) != "rateLimited" => None,
                Err(error) => return Err(self.fault(&error)),
            },
            None => None,
        };
        let order = match known {
            Some(order) => order,
            None => {
                progress.forget_order();
                self.place(&mut account, progress).await?
            }
        };
        let placed = progress.order.as_ref().ok_or_else(|| Fault::new(Side::Host, "the order was lost"))?;
        let key = Zeroizing::new(placed.key.clone());
        self.drive(&account, order, &key).await
    }

    /// When the authority would have this certificate renewed, and in how many seconds it wants to be
    /// asked again; `None`: it does not say (RFC 9773).
    pub(crate) async fn window(&self, certificate: &CertificateIdentifier<'_>) -> Result<Option<(Window, u64)>, Fault> {
        let account = self.account(None).await?;
        match account.renewal_info(certificate).await {
            Ok((info, again_in)) => {
                let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
                let (start, end) = (info.suggested_window.start, info.suggested_window.end);
                let window = Window { start: seconds(start.unix_timestamp()), end: seconds(end.unix_timestamp()) };
                Ok(Some((window, again_in.as_secs())))
            }
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(self.fault(&error)),
        }
    }

    fn fault(&self, error: &Error) -> Fault {
        Fault::of(error, &self.line)
    }

    /// The account that is kept, or a new one. `lost`: the URL of one that is good for nothing;
    /// another certificate may have made another one meanwhile.
    async fn account(&self, lost: Option<&str>) -> Result<Account, Fault> {
        let _turn = self.account_turn.lock().await;
        let builder = || Account::builder_with_http(self.line.client());
        let entry = &self.names.account;
        if let Some(kept) = self.store.get(entry) {
            match serde_json::from_slice::<AccountCredentials>(kept.bytes()) {
                Ok(credentials) => {
                    let account = builder().from_credentials(credentials).await.map_err(|error| self.fault(&error))?;
                    if lost != Some(account.id()) {
                        return Ok(account);
                    }
                }
                Err(error) => tracing::error!("the kept account {} cannot be read ({error})", entry.file_name()),
            }
        }
        let contact: Vec<String> = self.acme.email.iter().map(|email| format!("mailto:{email}")).collect();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = self.acme.external_account.as_ref().zip(self.hmac_key.as_ref());
        let external = external.map(|(account, key)| ExternalAccountKey::new(account.key_id.clone(), key));
        let directory = &self.acme.directory;
        let made = patiently(async || builder().create(&wanted, directory.url.clone(), external.as_ref()).await).await;
        let (account, credentials) = made.map_err(|error| {
            let fault = self.fault(&error);
            // Of an account nothing is validated: what is wrong with it stands in the config.
            let side = if fault.side == Side::Validation { Side::Config } else { fault.side };
            let text = format!("no account was made: {fault}");
            Fault { side, ..fault }.worded(text)
        })?;
        let text = serde_json::to_vec_pretty(&credentials).map_err(|error| Fault::new(Side::Host, error))?;
        self.store.keep(entry, text)?;
        tracing::info!("an account was made with the authority {}", directory.host);
        Ok(account)
    }

    async fn place(&self, account: &mut Account, progress: &mut Progress) -> Result<Order, Fault> {
        let host = |why: String| Fault::new(Side::Host, format!("no key could be made: {why}"));
        let key_type = self.acme.key_type;
        let key = match key_type {
            // Half a second of work: connections of the API do not wait for it.
            KeyType::Rsa2048 => tokio::task::spawn_blocking(move || make::new_key(key_type))
                .await
                .map_err(|error| host(error.to_string()))?,
            KeyType::EcdsaP256 | KeyType::EcdsaP384 => make::new_key(key_type),
        };
        let key = key.map_err(host)?;
        let identifiers: Vec<Identifier> = self.acme.domains.iter().map(identifier).collect();
        let mut replaces = self.replaces.clone();
        let mut may_be_lost = true;
        let order = loop {
            let wanted = NewOrder::new(&identifiers);
            let wanted = match &replaces {
                Some(certificate) => wanted.replaces(certificate.clone()),
                None => wanted,
            };
            match patiently(async || account.new_order(&wanted).await).await {
                Ok(order) => break order,
                Err(error) if may_be_lost && is_lost_account(&error) => {
                    let host = &self.acme.directory.host;
                    let why = self.fault(&error);
                    tracing::warn!(
                        "the authority {host} does not take our account any more ({why}): a new one is made"
                    );
                    may_be_lost = false;
                    *account = self.account(Some(account.id())).await.map_err(|fault| {
                        let text = format!("the authority does not take our account any more ({why}), and {fault}");
                        fault.worded(text)
                    })?;
                }
                // Only a hint: that it was replaced already, or is not known, is no reason to let it run out.
                Err(Error::Api(problem)) if replaces.is_some() && kind(&problem) != "rateLimited" => replaces = None,
                Err(error) => return Err(self.fault(&error)),
            }
        };
        let url = order.url().to_owned();
        if url.len() > ORDER_URL_BYTES {
            return Err(Fault::new(Side::Authority, "the authority's order has a URL without end"));
        }
        progress.order = Some(Placed { url, key: key.to_string() });
        progress.timing.placed(now());
        self.store.keep(&self.names.progress, progress.write().to_vec())?;
        (self.on_placed)();
        Ok(order)
    }

    async fn drive(&self, account: &Account, mut order: Order, key: &str) -> Result<Ended, Fault> {
        let until = Instant::now() + ORDER_PATIENCE;
        let mut ready: BTreeSet<String> = BTreeSet::new();
        loop {
            let status = order.state().status;
            match status {
                OrderStatus::Pending => {
                    self.prove(&mut order, &mut ready).await?;
                    if !self.wait_beyond(&mut order, status, until).await? {
                        return Ok(Ended::Waiting);
                    }
                }
                OrderStatus::Ready => {
                    let names: Vec<String> = self.acme.domains.iter().map(CertifiedName::to_string).collect();
                    let request = make::request(key, &names)
                        .map_err(|why| Fault::new(Side::Host, format!("no request could be made: {why}")))?;
                    patiently(async || order.finalize_csr(&request).await).await.map_err(|error| self.fault(&error))?;
                }
                OrderStatus::Processing => {
                    if !self.wait_beyond(&mut order, status, until).await? {
                        return Ok(Ended::Waiting);
                    }
                }
                OrderStatus::Valid => {
                    let chain = patiently(async || order.certificate().await).await;
                    let chain = chain.map_err(|error| self.fault(&error))?;
                    let nothing =
                        || Fault::new(Side::Authority, "the authority has a certificate and does not give it");
                    return self.judge(key, &chain.ok_or_else(nothing)?);
                }
                OrderStatus::Invalid => {
                    let reasons = self.reasons(account, &order).await;
                    return Err(Fault { retry_after: self.line.retry_after(), ..reasons });
                }
            }
        }
    }

    /// Answers what is not proven yet, and says so.
    async fn prove(&self, order: &mut Order, ready: &mut BTreeSet<String>) -> Result<(), Fault> {
        let mut rounds = 0;
        loop {
            match self.prove_once(order, ready).await {
                Err(Error::Api(problem)) if kind(&problem) == "badNonce" && rounds < NONCE_ROUNDS => rounds += 1,
                Err(error) => return Err(self.fault(&error)),
                Ok(proven) => return proven,
            }
        }
    }

    async fn prove_once(&self, order: &mut Order, ready: &mut BTreeSet<String>) -> Result<Result<(), Fault>, Error> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                // The order says why, once it is asked again.
                _ => return Ok(Ok(())),
            }
            let (wanted, word) = match self.acme.challenge {
                AcmeChallenge::Http01 => (ChallengeType::Http01, "http-01"),
                AcmeChallenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
            };
            let Some(mut challenge) = authorization.challenge(wanted) else {
                let text = format!("the authority does not offer the challenge {word} for {name}");
                return Ok(Err(Fault::new(Side::Config, text)));
            };
            if challenge.status != ChallengeStatus::Pending && challenge.status != ChallengeStatus::Processing {
                continue;
            }
            let answer = challenge.key_authorization();
            let pledge = match self.acme.challenge {
                AcmeChallenge::Http01 => self.challenges.answer_http(&challenge.token, answer.as_str()),
                AcmeChallenge::TlsAlpn01 => match make::challenge(&name, answer.digest().as_ref(), now()) {
                    Ok(certified) => self.challenges.answer_tls(&asked_name(&name), certified),
                    Err(why) => {
                        return Ok(Err(Fault::new(Side::Authority, format!("no proof can be made for {name}: {why}"))));
                    }
                },
            };
            self.pledges.borrow_mut().push(pledge);
            // Said twice it would be a mistake.
            if challenge.status == ChallengeStatus::Pending && !ready.contains(&challenge.url) {
                challenge.set_ready().await?;
                ready.insert(challenge.url.clone());
            }
        }
        Ok(Ok(()))
    }

    /// Looks again and again until the order has another status. False: not in time.
    async fn wait_beyond(&self, order: &mut Order, status: OrderStatus, until: Instant) -> Result<bool, Fault> {
        let mut pause = LOOK_PAUSE;
        loop {
            let asked = Duration::from_secs(self.line.look_after().unwrap_or(0));
            let wake = Instant::now() + pause.max(asked);
            if wake > until {
                return Ok(false);
            }
            tokio::time::sleep_until(wake).await;
            pause = pause.mul_f32(1.5);
            patiently(async || order.refresh().await.map(|_| ())).await.map_err(|error| self.fault(&error))?;
            if order.state().status != status {
                return Ok(true);
            }
        }
    }

    /// Why the authority let the order fall: it stands with the order, or with its names.
    async fn reasons(&self, account: &Account, order: &Order) -> Fault {
        let silent = || Fault::new(Side::Authority, "the authority has refused the order and does not say why");
        let fresh = patiently(async || account.order(order.url().to_owned()).await).await;
        let Ok(mut fresh) = fresh else { return silent() };
        let mut reasons: Vec<String> = Vec::new();
        if let Some(problem) = &fresh.state().error {
            reasons.push(words(problem));
        }
        let mut authorizations = fresh.authorizations();
        while let Some(Ok(authorization)) = authorizations.next().await {
            let name = authorization.identifier().to_string();
            let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            reasons.extend(errors.map(|problem| format!("{name}: {}", words(problem))));
        }
        if reasons.is_empty() {
            return silent();
        }
        let where_to = match self.acme.challenge {
            AcmeChallenge::Http01 => "TCP port 80",
            AcmeChallenge::TlsAlpn01 => "TCP port 443",
        };
        let reasons = reasons.join("; ");
        Fault::new(
            Side::Validation,
            format!("the authority did not find its proof at {where_to} of the names: {reasons}"),
        )
    }

    /// Whether what was given is what was asked for.
    fn judge(&self, key: &str, chain: &str) -> Result<Ended, Fault> {
        let fault = |text: String| Fault::new(Side::Authority, text);
        if chain.len() + key.len() > CHAIN_BYTES {
            return Err(fault(format!("the authority's chain has more than {} KiB", CHAIN_BYTES / 1024)));
        }
        let pem = Zeroizing::new(format!("{}\n{}\n", key.trim_end(), chain.trim()));
        let identity = Identity::parse(pem.as_bytes(), pem.as_bytes());
        let leaf = identity.map_err(|problem| fault(format!("the authority's chain {}", problem.message)))?.leaf;
        match self.acme.domains.iter().find(|name| !is_for(&leaf, name)) {
            Some(name) => Err(fault(format!("the authority's certificate is not for {name}"))),
            None => Ok(Ended::Issued(pem, leaf)),
        }
    }
}

/// Whether a certificate names this.
pub(crate) fn is_for(leaf: &Leaf, name: &CertifiedName) -> bool {
    match name {
        CertifiedName::Dns(name) => leaf.dns_names.contains(name),
        CertifiedName::Ip(address) => leaf.addresses.contains(address),
    }
}

fn identifier(name: &CertifiedName) -> Identifier {
    match name {
        CertifiedName::Dns(name) => Identifier::Dns(name.clone()),
        CertifiedName::Ip(address) => Identifier::Ip(*address),
    }
}

/// What the authority asks for by SNI: of an address the name that it has in reverse (RFC 8738
/// section 6).
fn asked_name(name: &str) -> String {
    match name.parse() {
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(IpAddr::V6(address)) => {
            let digits = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            digits.map(|digit| format!("{digit:x}.")).collect::<String>() + "ip6.arpa"
        }
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// The library makes a request again twice where its nonce was not liked; a proxy in front of the
/// authority, or one that tries its clients, may not like more of them.
async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut rounds = 0;
    loop {
        match call().await {
            Err(Error::Api(problem)) if kind(&problem) == "badNonce" && rounds < NONCE_ROUNDS => rounds += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_asked_for_in_reverse() {
        assert_eq!(asked_name("WWW.example.com"), "www.example.com");
        assert_eq!(asked_name("192.0.2.7"), "7.2.0.192.in-addr.arpa");
        let expected = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(asked_name("2001:db8::1"), expected);
    }
}
