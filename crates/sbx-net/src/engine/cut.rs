//! New rules and the connections that stand: those that are no longer allowed
//! end.

use super::Engine;
use crate::flow::{Demand, Role, State};
use crate::gate::Pass;
use crate::table::Key;

impl Engine {
    /// Ends every connection that the rules no longer allow, and says how
    /// many those were.
    pub(super) fn cut_objected(&mut self) -> usize {
        let keys = self.table.keys();
        keys.into_iter().filter(|key| self.cut(*key)).count()
    }

    fn cut(&mut self, key: Key) -> bool {
        let now = self.now;
        let Some(flow) = self.table.get_mut(key) else {
            return false;
        };
        let gate = &mut self.gate;
        let intent = &flow.intent;
        let mut objection = |address, inspected| gate.objection(intent, address, inspected, now);
        let objected = match &mut flow.state {
            // Questions are looked at one by one.
            State::Dns(_) | State::Asking(_) | State::Held => None,
            State::Resolving => objection(None, true),
            State::Tunnelling(pass) => objection(pass.ip(), pass.inspect()),
            State::Exchanging(exchange) => exchange
                .way
                .pass()
                .and_then(|pass| objection(pass.ip(), false)),
            State::Relaying(relay) => relay.role.pass().and_then(|pass| {
                let inspected = matches!(
                    relay.role,
                    Role::Inspected(_) | Role::Unopened(_, Demand::Requests)
                );
                objection(pass.ip(), inspected)
            }),
            State::Dialling(dialling) => {
                let mut last = None;
                let mut stays = |pass: &Pass| {
                    let objected = objection(pass.ip(), pass.inspect());
                    let stays = objected.is_none();
                    last = objected.or(last.take());
                    stays
                };
                dialling.left.retain(&mut stays);
                dialling
                    .trying
                    .retain(|(_, upstream)| stays(&upstream.pass));
                let none_left = dialling.left.is_empty() && dialling.trying.is_empty();
                last.filter(|_| none_left)
            }
        };
        let Some(reason) = objected else {
            return false;
        };
        let stands = match &flow.state {
            State::Relaying(relay) => Some(relay.role.pass()),
            State::Exchanging(exchange) => Some(exchange.way.pass()),
            _ => None,
        };
        if let Some(pass) = stands {
            let address = pass.and_then(Pass::ip);
            let (id, intent) = (flow.id, flow.intent.clone());
            self.record(id, &intent, ("deny", &reason), address, None);
            self.abort(key, "policy");
        } else {
            self.deny(key, reason);
        }
        true
    }
}
