//! What an operator orders of an endpoint. It holds for as long as the endpoint stays in the set, whatever is reloaded.
//!
//! Owns the orders. Leaves to `breaker` what holding a circuit means, and to the admin who may give an order.

use std::time::Instant;

use super::breaker::Hold;
use super::set::{EndpointSet, Event};

/// An operator's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It takes no new connections; what is open may finish.
    Drain,
    /// It takes them again.
    Undrain,
    /// Its circuit is held open.
    Open,
    /// Its circuit is held closed.
    Close,
    /// Its circuit is left to its rules again.
    Auto,
}

impl Order {
    /// All orders.
    pub const ALL: [Order; 5] = [Order::Drain, Order::Undrain, Order::Open, Order::Close, Order::Auto];

    /// The word in the API.
    pub fn label(self) -> &'static str {
        match self {
            Order::Drain => "drain",
            Order::Undrain => "undrain",
            Order::Open => "open",
            Order::Close => "close",
            Order::Auto => "auto",
        }
    }
}

impl EndpointSet {
    /// Carries an order out, at every member of that name (those that differ by their server name alone share it). How many
    /// they are.
    pub fn operate(&mut self, label: &str, order: Order, now: Instant) -> usize {
        let mut members = 0;
        for endpoint in self.endpoints.iter_mut().filter(|member| !member.leaving && *member.label == *label)
        {
            members += 1;
            let hold = match order {
                Order::Drain | Order::Undrain => {
                    endpoint.drained = order == Order::Drain;
                    continue;
                }
                Order::Open => Some(Hold::Open),
                Order::Close => Some(Hold::Closed),
                Order::Auto => None,
            };
            // By its rules up to now.
            let transitions = [endpoint.breaker.advance(now), endpoint.breaker.hold(hold, now)];
            let told = transitions.into_iter().flatten();
            self.events.extend(told.map(|told| Event::Breaker(endpoint.label.clone(), told)));
        }
        members
    }
}
