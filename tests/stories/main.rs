//! Tests of the whole program, one file a story. What they are made of is in `tests/harness/`.

#[cfg(test)]
#[path = "../harness/mod.rs"]
pub mod harness;

#[cfg(test)]
mod again;
#[cfg(test)]
mod ambassador;
#[cfg(all(test, unix))]
mod asked;
#[cfg(test)]
mod balance;
#[cfg(test)]
mod breaker;
#[cfg(test)]
mod check_account;
mod choice;
#[cfg(test)]
mod churn;
#[cfg(test)]
mod circuit;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod consul;
#[cfg(test)]
mod context;
#[cfg(test)]
mod dns_set;
#[cfg(test)]
mod endpoints_die;
#[cfg(test)]
mod endpoints_file;
#[cfg(test)]
mod harness_legacy;
#[cfg(test)]
mod harness_mail;
#[cfg(test)]
mod harness_mysql;
#[cfg(test)]
mod harness_postgres;
#[cfg(test)]
mod http_check;
#[cfg(test)]
mod idle;
#[cfg(test)]
mod imap_and_sieve;
#[cfg(test)]
mod kubernetes;
#[cfg(test)]
mod ldap_and_xmpp;
#[cfg(test)]
mod leaving;
#[cfg(test)]
mod life;
#[cfg(test)]
mod listener_tls;
#[cfg(test)]
mod mailboxes;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod mysql;
#[cfg(all(test, unix))]
mod operator;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod real_servers;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod six_endpoints;
#[cfg(test)]
mod smtp;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod sqlserver;
#[cfg(test)]
mod srv_set;
#[cfg(test)]
mod table;
#[cfg(all(test, unix))]
mod token;
#[cfg(test)]
mod unready;
#[cfg(test)]
mod upstreams;
#[cfg(test)]
mod warm;
#[cfg(test)]
mod way_out;
#[cfg(test)]
mod windows;
