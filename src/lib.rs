//! nuncio, a connection ambassador. The modules stand in the order in which a connection meets them.
//!
//! A connection is accepted ([`accept`]), let in or not ([`admit`]), asked where it comes from and wants to go ([`context`]),
//! heard where its protocol lets the client begin ([`preface`]), given a plan ([`route`]), and established ([`establish`]): a place in the upstream's queue, then in a loop
//! an endpoint of the set ([`upstream`]), a TCP connection ([`dial`]), the words that ask for TLS ([`protocol`]) and TLS
//! ([`tls`]). Then bytes are relayed ([`relay`]), greetings first, until both sides are done; or it is told no ([`refuse`]).
//! One record is written ([`record`]), however it ended. [`connection`] is the table of contents: one function, every step a call.
//!
//! Around it: [`discovery`] and [`health`] feed the endpoint sets, [`admin`] and [`metrics`] tell what goes on,
//! [`config`] turns the file into the steps' settings, [`service`] composes, reloads and stops, [`cli`] is the face.

pub mod cli;
pub mod service;

pub mod config;

pub mod connection;

pub mod accept;
pub mod admit;
pub mod context;
pub mod establish;
pub mod preface;
pub mod refuse;
pub mod rollout;
pub mod route;

pub mod upstream;

pub mod converse;
pub mod dial;
pub mod protocol;
pub mod relay;
pub mod tls;

pub mod failure;
pub mod record;
pub mod trail;

pub mod admin;
pub mod discovery;
pub mod health;
pub mod metrics;

pub mod account;
pub mod addr;
pub mod backoff;
pub mod drain;
pub mod socket;
