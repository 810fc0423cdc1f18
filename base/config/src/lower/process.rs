//! Who the worker process is, and what it may do.

use std::path::Path;

use rustix::fs::Access;
use sumun_host::users::{Account, as_account};

use super::{Lower, Section};
use crate::check::Probe;
use crate::checked::{Sandbox, User};
use crate::node::Place;
use crate::values::{self, account};

impl Lower<'_> {
    /// As written; where it is looked for, it has to be there.
    pub(super) fn user(&mut self, top: Section<'_>) -> Option<User> {
        let user = account::user(top.text("user")?).ok()?;
        if self.probe == Probe::Host
            && let Some(node) = top.given("user")
            && let Err(why) = crate::account::look_up(&user)
        {
            self.error(node.place, why, "make it with `useradd --system --no-create-home NAME`, or name another one");
        }
        Some(user)
    }

    /// With whose eyes files are looked at, besides our own.
    pub(super) fn serving_account(&self, user: Option<&User>, sandbox: Sandbox) -> Option<Account> {
        if self.probe != Probe::Host {
            return None;
        }
        // Its absence is reported where it is named, or when the sandbox is entered.
        crate::account::of(user, sandbox).ok().flatten()
    }

    /// Warns where the worker process could not do this with what lies at `path`, which is there.
    pub(super) fn probe_as_user(&mut self, place: Place, path: &Path, what: Use) {
        let Some(account) = self.account.as_ref().filter(|_| !self.problems.is_refused(place)) else {
            return;
        };
        // Where it cannot be found out, nothing is said.
        let may = as_account(account, || rustix::fs::access(path, what.access()).is_ok());
        if may.unwrap_or(true) || rustix::fs::access(path, Access::EXISTS).is_err() {
            return;
        }
        let message = format!("{} {}, and the user {} may not", path.display(), what.needed(), account.name);
        let help = "give that user the rights, in all folders above it too (`namei -l PATH` shows them), or name another `user`";
        self.problems.warn(place, message, help);
    }
}

/// What the worker process, or a command that checks its servers, does with a file, a folder or a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    ServeFrom,
    WriteInto,
    Read,
    ConnectTo,
    Run,
}

impl Use {
    fn access(self) -> Access {
        match self {
            Self::ServeFrom => Access::READ_OK | Access::EXEC_OK,
            Self::WriteInto => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
            Self::Read => Access::READ_OK,
            Self::ConnectTo => Access::WRITE_OK,
            Self::Run => Access::EXEC_OK,
        }
    }

    fn needed(self) -> &'static str {
        match self {
            Self::ServeFrom => "has to be read and searched to serve files from it",
            Self::WriteInto => "has to be written to take uploads",
            Self::Read => "has to be read",
            Self::ConnectTo => "has to be written to connect to it",
            Self::Run => "has to be executed to check servers",
        }
    }
}

pub(super) fn sandbox(top: Section<'_>) -> Sandbox {
    match top.value("sandbox", |text| Ok(text.to_owned())).as_deref() {
        Some("require") => Sandbox::Require,
        Some(text) if values::switch(text) == Ok(false) => Sandbox::Off,
        _ => Sandbox::On,
    }
}
