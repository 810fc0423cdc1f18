//! A task for each certificate, on the control thread of the process that cares for them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::CertificateIdentifier;
use rustls::pki_types::Der;
use sumun_certificates::{Identity, Leaf, date, moment};
use sumun_config::checked::{self, Config, HmacKey};
use sumun_engine::acme::{self, Challenges, Entry, Kept, Names, Pledge};
use sumun_engine::tls::{Blob, Material, Tls};
use sumun_pools::resolve::NameServers;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::fault::{Fault, Side};
use crate::fetch::{Authority, Line, now};
use crate::limits::{CLOCK_LOOK, ORDERS_AT_ONCE};
use crate::order::{Ended, Job, is_for};
use crate::progress::Progress;
use crate::schedule::{
    Failed, Validity, WINDOW_LOOK_FAILED, WINDOW_LOOK_LEAST, WINDOW_LOOK_MOST, WINDOW_LOOK_UNKNOWN, What, next,
};
use crate::show::{Row, Shown, State};

/// What it works with.
pub struct Inputs {
    pub tls: Arc<Tls>,
    pub name_servers: NameServers,
    /// Has something kept on disk; a certificate comes back as [`Material`].
    pub keep: Box<dyn Fn(Entry, Blob) -> io::Result<()>>,
}

/// See above. Within a local runtime.
#[derive(Clone)]
pub struct Acme(Rc<Inner>);

struct Inner {
    inputs: Inputs,
    store: Store,
    challenges: Arc<Challenges>,
    shown: Arc<Shown>,
    orders: RefCell<BTreeMap<String, Order>>,
    hmac_keys: RefCell<Vec<(Blob, Blob)>>,
    /// Whoever makes an account.
    account_turns: RefCell<BTreeMap<Entry, Rc<tokio::sync::Mutex<()>>>>,
    order_turns: Rc<Semaphore>,
    cares: Cell<bool>,
}

/// One certificate.
struct Order {
    acme: Rc<checked::Acme>,
    names: Rc<Names>,
    /// Kept while the order is not over, also in a process that does not care for it any more: an
    /// authority may come to it as long as it accepts.
    pledges: Rc<RefCell<Vec<Pledge>>>,
    task: Option<AbortHandle>,
}

/// What is kept, as this process knows it.
pub(crate) struct Store {
    kept: RefCell<Kept>,
    keep: Box<dyn Fn(Entry, Blob) -> io::Result<()>>,
}

impl Store {
    pub(crate) fn get(&self, entry: &Entry) -> Option<Blob> {
        self.kept.borrow().get(entry).cloned()
    }

    /// For this process alone.
    fn remember(&self, entry: &Entry, content: Vec<u8>) {
        self.kept.borrow_mut().put(entry.clone(), Blob::new(content));
    }

    pub(crate) fn keep(&self, entry: &Entry, content: Vec<u8>) -> Result<(), Fault> {
        let content = Blob::new(content);
        (self.keep)(entry.clone(), content.clone())
            .map_err(|error| Fault::new(Side::Host, format!("{} cannot be kept: {error}", entry.file_name())))?;
        self.kept.borrow_mut().put(entry.clone(), content);
        Ok(())
    }
}

impl Acme {
    #[must_use]
    pub fn new(mut inputs: Inputs) -> Self {
        let keep = std::mem::replace(&mut inputs.keep, Box::new(|_, _| Ok(())));
        Self(Rc::new(Inner {
            challenges: inputs.tls.challenges(),
            inputs,
            store: Store { kept: RefCell::default(), keep },
            shown: Arc::default(),
            orders: RefCell::default(),
            hmac_keys: RefCell::default(),
            account_turns: RefCell::default(),
            order_turns: Rc::new(Semaphore::new(ORDERS_AT_ONCE)),
            cares: Cell::new(false),
        }))
    }

    /// For metrics and the status.
    #[must_use]
    pub fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.0.shown)
    }

    /// Follows a config that is in force. What is kept and not known here is taken from `material`;
    /// of what is known, this process knows better.
    pub fn apply(&self, config: &Config, material: &Material) {
        let inner = &self.0;
        let wanted = acme::all(config);
        let mut kept = Kept::default();
        for entry in acme::entries(config) {
            if let Some(content) = inner.store.get(&entry).or_else(|| material.acme.get(&entry).cloned()) {
                kept.put(entry, content);
            }
        }
        inner.store.kept.replace(kept);
        self.change_keys(material);
        inner.shown.keep(|id| wanted.contains_key(id));
        let mut orders = inner.orders.borrow_mut();
        orders.retain(|id, order| {
            let stays = wanted.get(id).is_some_and(|(_, acme)| **acme == *order.acme);
            if !stays {
                order.stop();
            }
            stays
        });
        for (id, (names, acme)) in wanted {
            orders.entry(id).or_insert_with(|| Order {
                acme: Rc::new(acme.clone()),
                names: Rc::new(names),
                pledges: Rc::default(),
                task: None,
            });
        }
        drop(orders);
        self.go_on();
    }

    /// Files with keys of accounts were replaced.
    pub fn change_keys(&self, material: &Material) {
        self.0.hmac_keys.replace(material.hmac_keys.clone());
    }

    /// This is the process that cares for certificates, or is again.
    pub fn care(&self) {
        self.0.cares.set(true);
        self.go_on();
    }

    /// Another process is about to: nothing more is begun or asked here. What was promised to
    /// authorities is still answered.
    pub fn leave(&self) {
        self.0.cares.set(false);
        for order in self.0.orders.borrow_mut().values_mut() {
            order.stop();
        }
    }

    fn go_on(&self) {
        for (id, order) in self.0.orders.borrow_mut().iter_mut() {
            if !self.0.cares.get() {
                self.0.show(id, &order.acme, &order.names, None);
            } else if order.task.as_ref().is_none_or(AbortHandle::is_finished) {
                let (inner, id) = (Rc::clone(&self.0), id.clone());
                let (acme, names) = (Rc::clone(&order.acme), Rc::clone(&order.names));
                let pledges = Rc::clone(&order.pledges);
                let task = tokio::task::spawn_local(async move { inner.care_for(&id, &acme, &names, &pledges).await });
                order.task = Some(task.abort_handle());
            }
        }
    }
}

impl Order {
    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Inner {
    async fn care_for(&self, id: &str, acme: &checked::Acme, names: &Names, pledges: &RefCell<Vec<Pledge>>) {
        loop {
            let mut progress = self.progress(names);
            let leaf = self.leaf(acme, names);
            let step = next(&progress.timing, leaf.as_ref().map(validity), now());
            self.show(id, acme, names, Some(step.at));
            let wait = Duration::from_secs(step.at.saturating_sub(now()));
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(CLOCK_LOOK)).await;
                continue;
            }
            // It is never closed.
            let Ok(_turn) = self.order_turns.acquire().await else { return };
            match step.what {
                What::Look => self.look(id, acme, names, pledges, &mut progress, leaf.as_ref()).await,
                What::Order => {
                    progress.timing.begin(now(), fastrand::u32(..));
                    self.order(id, acme, names, pledges, &mut progress, leaf.as_ref()).await;
                }
                What::Resume => {
                    if progress.timing.resume(now(), fastrand::u32(..)) {
                        self.order(id, acme, names, pledges, &mut progress, leaf.as_ref()).await;
                    } else {
                        let text = "the authority has not come to an end with the order: it is given up";
                        self.failed(id, &mut progress, &Fault::new(Side::Authority, text));
                        pledges.borrow_mut().clear();
                        self.keep_progress(id, names, &progress);
                    }
                }
            }
        }
    }

    async fn order(
        &self,
        id: &str,
        acme: &checked::Acme,
        names: &Names,
        pledges: &RefCell<Vec<Pledge>>,
        progress: &mut Progress,
        leaf: Option<&Leaf>,
    ) {
        // Before the authority hears of it: who dies now has to know of it.
        if !self.keep_progress(id, names, progress) {
            return tokio::time::sleep(CLOCK_LOOK).await;
        }
        let ended = match self.job(id, acme, names, pledges, progress, leaf) {
            Ok(job) => job.obtain(progress).await,
            Err(fault) => Err(fault),
        };
        match ended {
            Ok(Ended::Waiting) => {
                let host = &acme.directory.host;
                tracing::info!("certificate {id}: the authority {host} takes its time, it is asked again later");
            }
            Ok(Ended::Issued(pem, leaf)) => {
                if let Err(fault) = self.store.keep(&names.certificate, pem.as_bytes().to_vec()) {
                    self.failed(id, progress, &fault);
                } else {
                    self.obtained(id, acme, progress, &leaf);
                }
                pledges.borrow_mut().clear();
            }
            Err(fault) => {
                // An order that the authority could not be asked about is still there.
                if fault.side == Side::Unreached && progress.order.is_some() {
                    tracing::warn!("certificate {id}: {fault}; the order goes on later");
                    progress.error = Some(fault.text);
                    self.shown.count(id, Some(Side::Unreached));
                } else {
                    self.failed(id, progress, &fault);
                    pledges.borrow_mut().clear();
                }
            }
        }
        self.keep_progress(id, names, progress);
    }

    fn obtained(&self, id: &str, acme: &checked::Acme, progress: &mut Progress, leaf: &Leaf) {
        let validity = validity(leaf);
        progress.forget_order();
        progress.error = None;
        progress.timing.obtained(validity, now(), fastrand::u32(..));
        self.shown.count(id, None);
        let renewal = crate::schedule::renewal(&progress.timing, validity);
        let host = &acme.directory.host;
        let (until, renewal) = (moment(leaf.not_after), moment(renewal));
        tracing::info!("certificate {id}: obtained from {host}, valid until {until}, to be renewed after {renewal}");
        if progress.timing.failures > 0 {
            tracing::warn!("certificate {id} is not valid now: is the clock of this host right?");
        }
    }

    fn failed(&self, id: &str, progress: &mut Progress, fault: &Fault) {
        progress.forget_order();
        progress.timing.failed(fault.how(), fault.retry_after, now(), fastrand::u32(..));
        let pause = progress.timing.not_before.saturating_sub(now());
        tracing::error!("certificate {id}: {fault}; the next try comes in {pause} s");
        progress.error = Some(fault.text.clone());
        self.shown.count(id, Some(fault.side));
    }

    /// Asks the authority when it would have the certificate renewed. That it does not say changes
    /// nothing.
    async fn look(
        &self,
        id: &str,
        acme: &checked::Acme,
        names: &Names,
        pledges: &RefCell<Vec<Pledge>>,
        progress: &mut Progress,
        leaf: Option<&Leaf>,
    ) {
        let before = progress.timing.window;
        let certificate = leaf.and_then(certificate_identifier);
        let found = match (self.job(id, acme, names, pledges, progress, leaf), certificate) {
            (Ok(job), Some(certificate)) => job.window(&certificate).await,
            (Err(fault), _) => Err(fault),
            (Ok(_), None) => Ok(None),
        };
        match found {
            Ok(Some((window, again_in))) => {
                let again_in = again_in.clamp(WINDOW_LOOK_LEAST, WINDOW_LOOK_MOST);
                progress.timing.looked(Some(window), again_in, now());
                if before != Some(window) {
                    let (start, end) = (date(window.start), date(window.end));
                    tracing::info!("certificate {id}: the authority suggests to renew it between {start} and {end}");
                }
            }
            Ok(None) => progress.timing.looked(None, WINDOW_LOOK_UNKNOWN, now()),
            Err(fault) => {
                tracing::debug!("certificate {id}: no suggestion when to renew it: {fault}");
                progress.timing.looked(before, WINDOW_LOOK_FAILED, now());
            }
        }
        self.keep_progress(id, names, progress);
    }

    fn job<'a>(
        &'a self,
        id: &'a str,
        acme: &'a checked::Acme,
        names: &'a Names,
        pledges: &'a RefCell<Vec<Pledge>>,
        progress: &Progress,
        leaf: Option<&Leaf>,
    ) -> Result<Job<'a>, Fault> {
        let tls = match acme.directory.is_secure {
            true => Some(self.inputs.tls.directory(acme.ca.as_deref()).ok_or_else(|| {
                Fault::new(Side::Host, "the authorities that the directory's certificate may come from were not read")
            })?),
            false => None,
        };
        let authority =
            Authority { directory: acme.directory.clone(), tls, name_servers: self.inputs.name_servers.clone() };
        let mut turns = self.account_turns.borrow_mut();
        turns.retain(|_, turn| Rc::strong_count(turn) > 1);
        let account_turn = Rc::clone(turns.entry(names.account.clone()).or_default());
        Ok(Job {
            acme,
            names,
            store: &self.store,
            challenges: &self.challenges,
            pledges,
            line: Line::open(authority),
            hmac_key: self.hmac_key(acme)?,
            account_turn,
            on_placed: Box::new(move || self.show(id, acme, names, Some(now()))),
            replaces: progress.timing.window.and(leaf).and_then(certificate_identifier),
        })
    }

    fn hmac_key(&self, acme: &checked::Acme) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        let path = match acme.external_account.as_ref().map(|account| &account.hmac_key) {
            None => return Ok(None),
            Some(HmacKey::Bytes(bytes)) => return Ok(Some(Zeroizing::new(bytes.clone()))),
            Some(HmacKey::File(path)) => path,
        };
        let keys = self.hmac_keys.borrow();
        let known = sumun_engine::tls::of_path(path);
        let text = keys.iter().find(|(key, _)| *key == known).map(|(_, text)| text);
        let text = text.ok_or_else(|| Fault::new(Side::Host, format!("{} was not read", path.display())))?;
        let key = sumun_config::hmac_key(&String::from_utf8_lossy(text.bytes()));
        let key = key.map_err(|why| Fault::new(Side::Config, format!("{}: {why}", path.display())))?;
        Ok(Some(Zeroizing::new(key)))
    }

    fn progress(&self, names: &Names) -> Progress {
        let Some(kept) = self.store.get(&names.progress) else { return Progress::default() };
        Progress::read(kept.bytes()).unwrap_or_else(|why| {
            tracing::error!("{} cannot be read ({why}): it is begun anew", names.progress.file_name());
            // As if a try had just failed: nobody knows how many there were.
            let mut progress = Progress::default();
            progress.timing.begin(now(), fastrand::u32(..));
            progress.timing.failed(Failed::Unreached, None, now(), fastrand::u32(..));
            // Once: the pause is not to begin anew with every look.
            self.store.remember(&names.progress, progress.write().to_vec());
            progress
        })
    }

    /// False: it could not be, which was logged.
    fn keep_progress(&self, id: &str, names: &Names, progress: &Progress) -> bool {
        match self.store.keep(&names.progress, progress.write().to_vec()) {
            Ok(()) => true,
            Err(fault) => {
                tracing::error!("certificate {id}: {fault}");
                false
            }
        }
    }

    /// The certificate that is there, if it is for all that is wanted.
    fn leaf(&self, acme: &checked::Acme, names: &Names) -> Option<Leaf> {
        let kept = self.store.get(&names.certificate)?;
        let leaf = Identity::parse(kept.bytes(), kept.bytes()).ok()?.leaf;
        acme.domains.iter().all(|name| is_for(&leaf, name)).then_some(leaf)
    }

    fn show(&self, id: &str, acme: &checked::Acme, names: &Names, next_try: Option<u64>) {
        let (progress, leaf) = (self.progress(names), self.leaf(acme, names));
        let expires = leaf.map(|leaf| leaf.not_after);
        let state = match expires {
            _ if progress.order.is_some() => State::Ordering,
            None => State::Waiting,
            Some(until) if until <= now() => State::Expired,
            Some(_) => State::Valid,
        };
        let row = Row {
            name: id.to_owned(),
            domains: acme.domains.iter().map(ToString::to_string).collect(),
            authority: acme.directory.host.clone(),
            state,
            expires,
            next_try,
            // The one in flight has been counted beforehand.
            failures: progress.timing.failures.saturating_sub(u32::from(progress.order.is_some())),
            error: progress.error,
        };
        self.shown.put(id, row);
    }
}

fn validity(leaf: &Leaf) -> Validity {
    Validity { not_before: leaf.not_before, not_after: leaf.not_after }
}

/// RFC 9773 section 4.1; `None` where the certificate does not say whose it is.
fn certificate_identifier(leaf: &Leaf) -> Option<CertificateIdentifier<'static>> {
    let key = leaf.authority_key.as_deref()?;
    Some(CertificateIdentifier::new(Der::from_slice(key), Der::from_slice(&leaf.serial)).into_owned())
}
