//! Which user of the host the worker process becomes.

use sumun_host::process::effective_uid;
use sumun_host::users::{self, Account};

use crate::checked::{Config, Sandbox, User};

/// Whom a worker process that is started now becomes; `None` where it stays who it is.
///
/// Only root becomes somebody else: the user that the config names, or without one, unless the
/// sandbox is off, `sumun` or `nobody`.
///
/// # Errors
/// That user is not there; in words for the operator.
pub fn account(config: &Config) -> Result<Option<Account>, String> {
    of(config.user.as_ref(), config.sandbox)
}

pub(crate) fn of(user: Option<&User>, sandbox: Sandbox) -> Result<Option<Account>, String> {
    if effective_uid() != 0 {
        return Ok(None);
    }
    match (user, sandbox) {
        (Some(user), _) => look_up(user).map(Some),
        (None, Sandbox::Off) => Ok(None),
        (None, Sandbox::On | Sandbox::Require) => match users::unprivileged() {
            Ok(Some(account)) => Ok(Some(account)),
            Ok(None) => Err("this host has neither a user `sumun` nor `nobody`".to_owned()),
            Err(error) => Err(format!("the users of this host cannot be read: {error}")),
        },
    }
}

pub(crate) fn look_up(user: &User) -> Result<Account, String> {
    let found = match user {
        User::Name(name) => users::by_name(name),
        User::Ids { uid, gid } => users::by_ids(*uid, *gid),
    };
    match (found, user) {
        (Ok(Some(account)), _) => Ok(account),
        (Ok(None), User::Name(name)) => Err(format!("there is no user `{name}` on this host")),
        (Ok(None), User::Ids { uid, .. }) => {
            Err(format!("there is no user {uid} on this host: name a group, too, such as `{uid}:{uid}`"))
        }
        (Err(error), _) => Err(format!("the users of this host cannot be read: {error}")),
    }
}
