//! What several gateways share.

use super::{Lower, Section};
use crate::checked::{RedisLogin, SharedSecret, SharedThrough};

impl Lower<'_> {
    pub(super) fn shared(&mut self, top: Section<'_>) -> Option<SharedThrough> {
        top.given("shared")?;
        let shared = top.section("shared");
        if let (Some(node), None) = (shared.given("user"), shared.given("password")) {
            let message = "there is a `user` and no `password`, and AUTH takes both";
            self.error(node.place, message, "for a user with `nopass` any password will do");
        }
        let user = shared.text("user").map(str::to_owned);
        let login = shared.text("password").map(|password| RedisLogin { user, password: password.to_owned() });
        Some(SharedThrough {
            pool: self.pool_name(shared.given("pool"))?,
            login,
            secret: SharedSecret(shared.text("secret")?.as_bytes().to_vec()),
            prefix: shared.text("prefix").or_else(|| shared.default("prefix"))?.to_owned(),
        })
    }

    /// The `shared` of a limit or a waiting room.
    pub(super) fn is_shared(&mut self, section: Section<'_>) -> bool {
        let is_shared = section.switch("shared");
        if is_shared
            && !self.is_shared
            && let Some(node) = section.given("shared")
        {
            let help = "write `shared: { pool: NAME, secret: \"${SHARED_SECRET}\" }` at the top level";
            self.error(node.place, "there is nothing to share it through", help);
        }
        is_shared
    }
}
