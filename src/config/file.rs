//! The written shape: every section and every key, declared once with its kind, its default and its text.
//!
//! A key's docstring is what `conf/nuncio.toml` says about it, a test holds the defaults beside those of the steps'
//! own `Settings`. Leaves to `meaning` what the values mean together.

use std::marker::PhantomData;

use toml::de::DeValue;

pub(super) use super::choices::{ClientTls, KeyPermissions, TlsMode};
use super::kinds::{Choice, Count, Factor, Flag, List, Named, Off, OneOrMany, Share, string};
use super::problem::Place;
use super::reader::Reader;
use super::section::{At, Field, Key, Kind, Nested, Section, Show, sections};
use super::words::{
    self, Backoff, DnsServer, FilePath, HealthUrl, HostText, Ip, KernelTime, Level, Listen, Mode, Network,
    PinText, Rate, RegistryAddress, ServerName, Size, Text, Time, TimeOrZero,
};
use crate::context::Kind as Context;
use crate::health;
use crate::protocol::Protocol;
use crate::record::Format;
use crate::relay::OnTruncation;
use crate::tls;
use crate::upstream::WhenUnready;
use crate::upstream::balancer::Balance;
use crate::upstream::breaker::Trials;

sections! {
    /// A whole file.
    struct File {
        /// How long open connections may go on after SIGTERM; a second signal ends them now.
        drain_timeout: TimeOrZero = default("30s");
        /// Each connection is ended up to this much earlier, so that clients do not all come back at once. At most a sixth of
        /// `drain_timeout` unless it is written.
        drain_jitter: TimeOrZero = default("5s");
        /// More files, relative to this one, read in the order of their names. `*` may stand in the last part.
        include: OneOrMany<Text> = example(["conf.d/*.toml"]);
        /// Liveness, readiness, metrics and the API over HTTP. Without an address there is none.
        admin: Admin = section;
        /// What is written: log lines to standard error, a record of each connection to standard output.
        log: Log = section;
        /// What the whole process may use.
        runtime: Runtime = section;
        /// How names are looked up.
        dns: Dns = section;
        /// Who we are and whom we trust. Upstreams name it.
        identity: Named<Identity> = section;
        /// Where connections go. One may also stand within its listener: upstream = { endpoints = [...] }.
        upstream: Named<Upstream> = section;
        /// Where the programs connect to.
        listener: Named<Listener> = section;
    }

    /// `[admin]`
    struct Admin {
        /// IP:PORT on loopback, unix:/PATH or systemd:NAME; or a list of them.
        address: OneOrMany<Listen> = example("127.0.0.1:9746");
        /// Where the token stands with which orders are taken over TCP (Authorization: Bearer TOKEN). Read at each reload.
        /// Without it only Unix sockets take orders, from whom their mode lets in.
        token_file: FilePath = example("/etc/nuncio/admin.token");
    }

    /// `[log]`
    struct Log {
        /// text or json.
        format: Choice<Format> = default("text");
        /// error, warn, info, debug or trace; for one part of the program: "info,nuncio::upstream=debug".
        level: Level = default("info");
    }

    /// `[runtime]`
    struct Runtime {
        /// Threads that relay. Without it: one a core, at most four.
        threads: Count<1, 256> = example(2);
        /// What all relay buffers may take together.
        memory: Size = default("64MiB");
        /// Connections open at a time in the whole process. Without it: what the descriptor limit allows.
        connections: Count<1, 10_000_000> = example(10000);
    }

    /// `[dns]`
    struct Dns {
        /// Servers to ask, IP or IP:PORT. Empty: the system's.
        servers: List<DnsServer> = default([]);
        /// Answers are kept at least this long, whatever their TTL.
        ttl_floor: Time = default("1s");
        /// Answers are kept at most this long, whatever their TTL.
        ttl_ceiling: Time = default("5m");
        /// How long one look-up may take.
        timeout: Time = default("3s");
    }

    /// `[identity.NAME]`
    struct Identity {
        /// PEM file with the CAs that servers are checked against. Without it: the system's roots.
        ca: FilePath = example("/etc/nuncio/ca.pem");
        /// PEM file with our certificate, and the chain behind it.
        certificate: FilePath = example("/etc/nuncio/client.pem");
        /// PEM file with the certificate's private key. All three files are read at the start and on SIGHUP, not in between.
        key: FilePath = example("/etc/nuncio/client.key");
        /// What happens when others on this host can read the key file: warn, or strict (refuse to start).
        key_permissions: Choice<KeyPermissions> = default("warn");
    }

    /// `[upstream.NAME]`
    struct Upstream {
        /// HOST:PORT of each server; the addresses of one are raced. Without the port: the protocol's own, where it has one.
        endpoints: List<Endpoint> = shown(["db1.example.com:5432", "db2.example.com:5432"]);
        /// Instead of `endpoints`: NAME:PORT, of which each address is an endpoint. The port as above.
        dns: words::Endpoint = example("db.example.com:5432");
        /// Instead of `endpoints`: a name with SRV records, of which each target is an endpoint. Lower priorities are used
        /// first. Certificates have to carry the name behind _SERVICE._tcp, unless `server_name` says another.
        srv: words::Service = example("_postgres._tcp.db.example.com");
        /// Instead of `endpoints`: a service in Consul, of which each instance that passes its checks is an endpoint.
        consul: OrService<Consul> = example("orders-db");
        /// Instead of `endpoints`: a Service of Kubernetes, of which each endpoint that is ready is one, as its EndpointSlices
        /// say. (A Service without an address of its own is also a name for `dns`, and for `srv`.)
        kubernetes: OrService<Kubernetes> = example("db");
        /// Instead of `endpoints`: a .json or .toml file with a list of them, each "HOST:PORT" or a table with address, weight,
        /// tier (0 is used first; backup = true is 1), zone and server_name. In TOML the list is `endpoints`; write it in brackets:
        /// of [[endpoints]] nobody can see whether the end is missing, so they count only after a second. It is read again
        /// whenever it is written.
        file: FilePath = example("/etc/nuncio/orders.json");
        /// What is spoken: tcp (anything), postgres, mysql, sqlserver, smtp, lmtp, imap, pop3, sieve, nntp, ldap, xmpp, redis, amqp or
        /// mqtt; `nuncio protocols` says what that means.
        protocol: Choice<Protocol> = default("tcp");
        /// negotiate: asked for in the protocol's own words. direct: from the first byte. off: none, the bytes go as they
        /// are. Without it: negotiate where the protocol can, else direct.
        tls: Choice<tls::Mode> = example("direct");
        /// Which [identity.NAME]. Without it: the system's roots, and no certificate of ours.
        identity: Text = shown("example");
        /// SNI, and the name that the certificate must carry. Without it: the name written in `endpoints` or `dns`.
        server_name: ServerName = example("db.example.com");
        /// Application protocols offered in the handshake. Without it: none, or the one that the protocol wants where TLS is
        /// direct.
        alpn: List<Text> = example(["postgresql"]);
        /// Oldest TLS version accepted: 1.2 or 1.3.
        tls_min: Choice<tls::Version> = default("1.2");
        /// Newest TLS version offered.
        tls_max: Choice<tls::Version> = default("1.3");
        /// Offer X25519MLKEM768. It makes the ClientHello larger than one packet, which a few old firewalls drop.
        post_quantum: Flag = default(true);
        /// Accept exactly these keys ("spki-sha256:...") or certificates ("leaf-sha256:..."), hex or base64, whatever
        /// their chain and name. For servers whose certificate cannot be mended.
        pins: List<PinText> = default([]);
        /// Look at nothing: whoever answers gets the data. For a test bench.
        danger_accept_any_certificate: Flag = default(false);
        /// Whose turn it is: least_connections, peak_ewma (the quicker to be reached), round_robin, random; source_hash or maglev
        /// (a client's source stays with an endpoint; maglev for very many). All of them heed weights.
        balance: Choice<Balance> = default("least_connections");
        /// How long an endpoint that is new, or came back by its checks or its circuit, takes to have all of its weight, from a
        /// tenth on; or off.
        slow_start: Off<Time> = default("off");
        /// Share of a tier, by weight, that has to be ready for it to keep all connections. With less, it keeps them in
        /// proportion, and the others go to the next tier. off: it keeps all while anyone is ready.
        spill_over: Off<Share> = default("off");
        /// Where we are: endpoints of this zone come first within their tier, for as much as their fair share of what is ready
        /// allows. "${ZONE}" takes it from the environment.
        zone: Text = example("eu-1a");
        /// How long connections may stay at an endpoint that its source no longer names, even if it does so again later; or off.
        leave_timeout: Off<TimeOrZero> = default("off");
        /// /readyz says no while this upstream has no usable endpoint.
        required: Flag = default(false);
        /// What clients meet while none of its endpoints can be used: refuse (no, in their own words), reset (their connection
        /// breaks, for drivers that try their next host only then), unlisten (nobody listens at the listeners that lead only
        /// here, for clients that try another address: with breaker.trials = "checks" none of them has to find out that it is
        /// back) or wait (for as long as timeouts.establish, in a queue of limits.pending).
        when_unready: Choice<WhenUnready> = default("refuse");
        /// What the client sees when the server's stream ended without TLS' close_notify, after all data: reset (and a failure
        /// in the log) or close. Without it: reset; with MySQL, whose servers all end so, close, and it is no failure.
        on_truncation: Choice<OnTruncation> = example("close");
        /// Destinations that it answers for, where clients ask for one (a listener's `context`): names, "*.NAME", addresses and
        /// networks, with :PORT behind them for one port only. They choose the upstream; what is dialled are its endpoints.
        hosts: List<HostText> = example(["db.example.com", "*.corp.example.com:5432", "10.1.0.0/16"]);
        /// The local address to dial from.
        source_address: Ip = example("10.0.0.5");
        /// How long each stage may take.
        timeouts: Timeouts = section;
        /// Checks beside the traffic.
        health: Health = section;
        /// When an endpoint is left alone, and how it comes back.
        breaker: Breaker = section;
        /// How a failed opening is followed by the next one. Nothing is retried once a byte of the client was delivered.
        retry: Retry = section;
        /// What may be open and waiting at a time.
        limits: Limits = section;
        /// Connections that are ready before a client comes, TLS included.
        pool: Pool = section;
        /// What is between here and the servers.
        proxy: Proxy = section;
        /// The sockets to the servers.
        tcp: Tcp = section;
    }

    /// `consul` that is a table.
    struct Consul {
        /// Its name there.
        service: Text = needed("orders-db");
        /// The agent, as http:// or https://, a host and a port.
        address: RegistryAddress = default("http://127.0.0.1:8500");
        /// Only instances that have it.
        tag: Text = example("primary");
        /// Without it: the agent's own.
        datacenter: Text = example("dc1");
        /// Where the ACL token stands. Read anew for each question.
        token_file: FilePath = example("/etc/nuncio/consul.token");
        /// A node, or "_agent" for the agent's own: the instance nearest to it is used first, the others in their order.
        near: Text = example("_agent");
        /// With https: PEM file with the CAs that the agent is checked against. Without it: the system's roots.
        ca: FilePath = example("/etc/nuncio/consul-ca.pem");
        /// With https: PEM file with our certificate for the agent, where it wants one (verify_incoming), and the chain behind it.
        certificate: FilePath = example("/etc/nuncio/consul-client.pem");
        /// PEM file with that certificate's private key. Without it: it stands in the same file. All three are read anew for each
        /// question.
        key: FilePath = example("/etc/nuncio/consul-client.key");
    }

    /// `kubernetes` that is a table.
    struct Kubernetes {
        /// The Service's name.
        service: Text = needed("db");
        /// Without it: the one that nuncio runs in.
        namespace: Text = example("prod");
        /// The name or the number of the Service's port. Without it: the only one that it has.
        port: Text = example("postgres");
        /// The API, as https://, a host and a port. Without it: that of the cluster that nuncio runs in, as the pod's service
        /// account.
        api: RegistryAddress = example("https://10.0.0.1:6443");
        /// Where the token stands. Read anew for each question. Without it: the service account's; with `api`, none.
        token_file: FilePath = example("/etc/nuncio/kubernetes.token");
        /// PEM file with the CAs that the API is checked against. Without it: the service account's; with `api`, the system's
        /// roots.
        ca: FilePath = example("/etc/nuncio/kubernetes-ca.pem");
    }

    /// An entry of `endpoints` that is a table.
    struct EndpointTable {
        /// HOST:PORT.
        address: words::Endpoint = needed("db1.example.com:5432");
        /// Its share of the connections, beside the others' weights; 0: no new ones.
        weight: Count<0, 1000> = default(1);
        /// Used only while no other is ready: tier 1.
        backup: Flag = default(false);
        /// A tier is used only while nobody of a lower one is ready; see also `spill_over`.
        tier: Count<0, 65535> = default(0);
        /// Where it is; see the upstream's `zone`.
        zone: Text = example("eu-1a");
        /// As the upstream's, for this one only.
        server_name: ServerName = example("db1.example.com");
    }

    /// `[upstream.NAME.timeouts]`
    struct Timeouts {
        /// From the endpoint's name to its addresses.
        resolve: Time = default("3s");
        /// TCP, over all addresses of one endpoint.
        connect: Time = default("3s");
        /// The plaintext messages before TLS.
        negotiate: Time = default("5s");
        /// TLS.
        handshake: Time = default("5s");
        /// The queue and all attempts together.
        establish: Time = default("10s");
        /// Silence in both directions that ends a connection, or off.
        idle: Off<Time> = default("off");
        /// Silence after one side has closed; restarts with every byte.
        half_close: Time = default("60s");
        /// Age that ends a connection, or off.
        lifetime: Off<Time> = default("off");
        /// Share of `idle` and `lifetime` by which they are drawn shorter, so that what began together does not end together.
        jitter: Share = default(0.1);
    }

    /// `[upstream.NAME.health]`
    struct Health {
        /// off, tcp (connects), tls (connects and shakes hands), protocol (asks for TLS in the protocol's words, shakes hands
        /// and takes its leave) or http (asks `url`). Without it: the deepest that the upstream has, http aside. With MySQL
        /// protocol logs in, as `user`, and without one it is off: a server blocks a host that is gone before that.
        kind: Choice<health::Kind> = example("tls");
        /// With kind = "http": what is asked, with the endpoint's {host} and {port} filled in. 2xx means up. With https,
        /// the upstream's identity counts, and the certificate must carry the URL's host.
        url: HealthUrl = example("https://{host}:8008/primary");
        /// With protocol = "mysql": the account that a check logs in as. It needs no rights at all.
        user: Text = example("check");
        /// Where its password stands; without it, it has none. Read anew for each check.
        password_file: FilePath = example("/etc/nuncio/check.password");
        /// Time between two checks of an endpoint.
        interval: Time = default("5s");
        /// How long one may take.
        timeout: Time = default("2s");
        /// Passed checks in a row that bring an endpoint up.
        rise: Count<1, 1000> = default(2);
        /// Failed checks in a row that take it down.
        fall: Count<1, 1000> = default(3);
        /// Share of `interval` by which each pause is drawn shorter or longer.
        jitter: Share = default(0.1);
        /// Connections that are open to an endpoint end when it goes down: their clients connect anew, to another one.
        close_when_down: Flag = default(false);
    }

    /// `[upstream.NAME.breaker]`
    struct Breaker {
        /// Failed connections in a row that open the circuit, or off.
        consecutive: Off<Count<1, 1_000_000>> = default(5);
        /// Share of failed connections within `window` that opens it, or off.
        failure_rate: Off<Share> = default("off");
        /// How far back `failure_rate` and `outlier` look.
        window: Time = default("30s");
        /// Connections within `window` below which `failure_rate` and `outlier` say nothing.
        minimum: Count<1, 1_000_000> = default(20);
        /// Standard deviations by which an endpoint's share of good connections may fall below the others' mean before its
        /// circuit opens, such as 1.9, or off. Others that hardly differ are taken to differ by 0.05.
        outlier: Off<Factor> = default("off");
        /// Endpoints with enough connections below which `outlier` says nothing.
        outlier_endpoints: Count<2, 1000> = default(5);
        /// How long it is open the first time; doubles with every failed trial.
        open_for: Time = default("5s");
        /// The longest it is open.
        max_open: Time = default("2m");
        /// Connections that may try at a time before it closes again.
        half_open_trials: Count<1, 1000> = default(1);
        /// Who finds out whether an open circuit may be tried: clients (one of them, once its time is over) or checks (a health
        /// check that passes then; it has to go as deep as the clients' connections do).
        trials: Choice<Trials> = default("clients");
        /// Share of the endpoints that may be out at a time; beyond it connections are let through, and the log says so.
        max_ejected: Share = default(0.5);
        /// A connection that the server ends this soon after the handshake, without a byte, has failed.
        early_close: TimeOrZero = default("1s");
        /// The same for one that ends later, within this time, or off. Below the time after which the server leaves idle
        /// clients.
        zero_byte: Off<Time> = default("off");
        /// A connection whose client waits longer than this for the first byte of its first answer has failed, or off. Not for
        /// protocols whose servers do not answer.
        slow_first_byte: Off<Time> = default("off");
        /// Count, log and show what would be done, and do nothing of it.
        shadow: Flag = default(false);
        /// How many failures one of each kind counts as; 0: none.
        weights: Weights = section;
    }

    /// `[upstream.NAME.breaker.weights]`
    struct Weights {
        /// The TCP connection is refused or reset, or there is no way there.
        refused: Count<0, 1000> = default(1);
        /// No answer in time: TCP, the words before TLS, or TLS.
        timeout: Count<0, 1000> = default(1);
        /// TLS, or the words before it, failed.
        handshake: Count<0, 1000> = default(1);
        /// The server refused our certificate, also after the handshake.
        certificate_refused: Count<0, 1000> = default(1);
        /// See `early_close`.
        early_close: Count<0, 1000> = default(1);
        /// See `zero_byte`.
        zero_byte: Count<0, 1000> = default(1);
        /// See `slow_first_byte`.
        slow: Count<0, 1000> = default(1);
        /// The server itself said that it can take nobody now: PostgreSQL's 53300 and 57P03, MySQL's 1040 and 1129,
        /// SMTP's 421 in place of a greeting.
        overloaded: Count<0, 1000> = default(1);
    }

    /// `[upstream.NAME.retry]`
    struct Retry {
        /// Attempts for one connection, the first included.
        attempts: Count<1, 100> = default(3);
        /// Bound of the first pause and of the longest; each pause is drawn from zero to its bound.
        backoff: Backoff = default("25ms..1s");
        /// Retries per connection over the last ten seconds, beyond ten a second.
        budget: Share = default(0.2);
    }

    /// `[upstream.NAME.limits]`
    struct Limits {
        /// Connections open or being opened. Without it: no limit.
        connections: Count<1, 10_000_000> = example(200);
        /// The same, at each endpoint. When all that serve have as many, connections wait. Without it: no limit.
        connections_per_endpoint: Count<1, 10_000_000> = example(50);
        /// Connections that may wait for a place; further ones are refused at once.
        pending: Count<0, 10_000_000> = default(1024);
        /// How long one waits.
        queue_timeout: Time = default("5s");
    }

    /// `[upstream.NAME.proxy]`
    struct Proxy {
        /// An HTTP proxy to dial through, by CONNECT. It is given the endpoint as written, and resolves names itself.
        http: words::Endpoint = example("proxy.example.com:3128");
        /// The same with a SOCKS5 proxy.
        socks5: words::Endpoint = example("proxy.example.com:1080");
        /// Who we are there.
        user: Text = example("nuncio");
        /// Where the password stands. Read anew for each connection.
        password_file: FilePath = example("/etc/nuncio/proxy.password");
        /// The servers are told who the client is, in front of all else: the PROXY protocol of version 1 or 2, which they must expect.
        proxy_protocol: Count<1, 2> = example(2);
    }

    /// `[upstream.NAME.pool]`
    struct Pool {
        /// Connections kept ready at each usable endpoint, also when nobody comes.
        min: Count<0, 1000> = default(0);
        /// The most that are kept ready at each: as many as clients came in the busiest second of the last half minute, but no
        /// more than this. Without it: `min`, whoever comes.
        max: Count<0, 1000> = example(8);
        /// One that nobody wanted is closed after this time. Keep it below the time after which the server itself would.
        max_age: Time = default("30s");
    }

    /// `[upstream.NAME.tcp]` and `[listener.NAME.tcp]`
    struct Tcp {
        /// Silence after which the kernel asks whether the peer is there, or off.
        keepalive: Off<KernelTime> = default("60s");
        /// Time between such questions.
        keepalive_interval: KernelTime = default("15s");
        /// Unanswered questions that end the connection.
        keepalive_count: Count<1, 127> = default(4);
        /// How long sent data may stay unacknowledged (Linux), or off: the system's, about 15 minutes. It finds a dead host
        /// sooner, and also ends a living peer that reads nothing for so long: a pager, a cursor, a long COPY.
        user_timeout: Off<KernelTime> = default("off");
    }

    /// An entry of `split`.
    struct SplitEntry {
        /// Which [upstream.NAME].
        upstream: Text = needed("stable");
        /// Its share, beside the others' weights; 0: no connections.
        weight: Count<0, 1000> = default(1);
    }

    /// `[listener.NAME.rollout]`
    struct Rollout {
        /// Which of the two upstreams in `split` is on trial. Without it nothing moves by itself.
        canary: Text = example("canary");
        /// Its share of new connections at each step, in percent.
        steps: List<Count<1, 100>> = default([1, 5, 25, 50, 100]);
        /// How long each step takes at least.
        pause: Time = default("10m");
        /// How many connections it must have had in a step before the next one.
        minimum: Count<1, 1_000_000> = default(100);
        /// Its share of failed connections may be so much above the other's; beyond it everything goes back to the other at once.
        failures: Share = default(0.01);
        /// The same of the 99th percentiles of the time to establish a connection and of the time to its first byte: 0.5 is half
        /// as much again.
        slower: Share = default(0.5);
        /// Where nuncio writes down how far it is. Without it, a restart begins again with the first step, also after a rollback.
        state_file: FilePath = example("/var/lib/nuncio/orders.rollout");
    }

    /// `[listener.NAME]`
    struct Listener {
        /// IP:PORT, unix:/PATH, systemd:NAME; or a list of them. Other than loopback only with `allow`.
        address: OneOrMany<Listen> = needed("127.0.0.1:5432");
        /// Which [upstream.NAME]; or a table with its keys, for an upstream of this listener only.
        upstream: UpstreamOf = shown("example");
        /// Instead of `upstream`: several [upstream.NAME] of one protocol, each with its share of the connections. With `rollout`:
        /// two of them, without weights.
        split: List<SplitEntry> = example([{ upstream = "stable", weight = 95 }, { upstream = "canary", weight = 5 }]);
        /// With `split`: all connections of one source (user, or address) go to one upstream, unless the weights change.
        sticky: Flag = default(false);
        /// With a `split` of two without weights: one upstream's share grows by itself, for as long as it serves as well as the
        /// other.
        rollout: Rollout = section;
        /// How it hears who is behind a connection and where it wants to go, before its first byte. none: not at all.
        /// proxy_protocol: a proxy before it says who the client is (PROXY version 1 or 2). socks5, http_connect: clients ask for a
        /// destination, as of such a proxy. original_destination (Linux): the kernel redirected the connection, see packaging/nftables.
        context: Choice<Context> = default("none");
        /// With the last three, instead of `upstream`: the [upstream.NAME] that clients may reach, each by its `hosts`. Nothing
        /// else is ever dialled.
        upstreams: List<Text> = example(["orders", "mail"]);
        /// With context = "proxy_protocol": networks of the proxies, which alone may connect over TCP; `allow` is for their
        /// clients then, and for a proxy that says nobody's address (UNKNOWN). Without it: proxies on this host only.
        proxy_from: List<Network> = example(["10.0.0.0/8"]);
        /// Networks that may connect over TCP. Without it: this host only.
        allow: List<Network> = example(["10.0.0.0/8"]);
        /// Users of this host that may connect. Without it and `allow_groups`: all of them.
        allow_users: List<Text> = example(["erp"]);
        /// Groups of this host whose members may connect.
        allow_groups: List<Text> = example(["erp"]);
        /// Count connections, bytes and time of each local user, see /api/v1/users: of the first 64; others are "other", and who
        /// cannot be told is "unknown". Over TCP that costs a look-up of some 10 µs a connection, unless `allow_users` needs it
        /// anyway.
        meter_users: Flag = default(false);
        /// Permissions of Unix sockets, as in chmod. Without it: "0660".
        mode: Mode = example("0660");
        /// Owner of Unix sockets.
        owner: Text = example("nuncio");
        /// Group of Unix sockets.
        group: Text = example("erp");
        /// Connections that the kernel holds until they are accepted.
        backlog: Count<1, 65535> = default(1024);
        /// Connections open at a time. Without it: no limit.
        connections: Count<1, 10_000_000> = example(1000);
        /// Connections of one source (address or user) open at a time. Without it: no limit.
        connections_per_source: Count<1, 10_000_000> = example(100);
        /// New connections a second. Without it: no limit.
        rate: Rate = example("100/s");
        /// TLS with the clients: off, optional (whoever asks for it) or required. It ends here; the way to the servers has its own.
        tls: Choice<ClientTls> = default("off");
        /// negotiate: clients ask for TLS in the protocol's own words. direct: from the first byte. Without it: negotiate where
        /// the upstream's protocol can, else direct.
        tls_mode: Choice<TlsMode> = example("direct");
        /// Which [identity.NAME] is shown to clients. Without it: a certificate that is made at every start, which no client
        /// can verify; the log has its fingerprint.
        identity: Text = example("example");
        /// Ask clients for a certificate issued by the identity's `ca` that carries one of these names, as a subject
        /// alternative name or as its common name.
        client_names: List<Text> = example(["erp.example.com"]);
        /// How long a client may take for its first message, where its protocol lets it begin, for its request for TLS, where
        /// that is required, and for its TLS handshake.
        preface_timeout: Time = default("10s");
        /// The clients' sockets.
        tcp: Tcp = section;
    }
}

/// An entry of `endpoints`: an address, or a table with more.
#[derive(Debug)]
pub(super) struct Endpoint;

impl Kind for Endpoint {
    type Value = EndpointTable;
    const KEYS: &'static [Key] = <EndpointTable as Section>::KEYS;
    const NESTED: Nested = Nested::Entry;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<EndpointTable> {
        if let DeValue::Table(table) = value {
            return Some(reader.section(table, place));
        }
        let address = words::Endpoint::read(value, place, reader)?;
        let address = Field::Given(At { value: address, place: place.clone() });
        Some(EndpointTable { address, ..EndpointTable::default() })
    }
}

/// A service of a registry: its name, or a table with more.
#[derive(Debug)]
pub(super) struct OrService<S>(PhantomData<S>);

impl<S: Section + From<At<String>>> Kind for OrService<S> {
    type Value = S;
    const KEYS: &'static [Key] = S::KEYS;
    const NESTED: Nested = Nested::Instead;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<S> {
        match value {
            DeValue::Table(table) => Some(reader.section(table, place)),
            value => {
                let service = Text::read(value, place, reader)?;
                Some(S::from(At { value: service, place: place.clone() }))
            }
        }
    }
}

impl From<At<String>> for Consul {
    fn from(service: At<String>) -> Consul {
        Consul { service: Field::Given(service), ..Consul::default() }
    }
}

impl From<At<String>> for Kubernetes {
    fn from(service: At<String>) -> Kubernetes {
        Kubernetes { service: Field::Given(service), ..Kubernetes::default() }
    }
}

/// `upstream` of a listener.
#[derive(Debug)]
pub(super) enum UpstreamOf {
    /// The name of an `[upstream.NAME]`.
    Name(String),
    /// One of its own.
    Inline(Box<Upstream>),
}

impl Kind for UpstreamOf {
    type Value = UpstreamOf;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<UpstreamOf> {
        match value {
            DeValue::Table(table) => Some(UpstreamOf::Inline(Box::new(reader.section(table, place)))),
            value => {
                let wants = "an upstream's name or a table";
                string(value, place, reader, wants, "\"orders\"", None).map(UpstreamOf::Name)
            }
        }
    }
}
