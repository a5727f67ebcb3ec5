//! What cannot be done for a protocol by whoever stands between its two sides, and why.

/// One protocol, or one manner of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// What people call it.
    pub what: &'static str,
    /// What they would write as `protocol`.
    pub names: &'static [&'static str],
    /// Why it cannot pass as it is.
    pub why: &'static str,
    /// What can be done.
    pub instead: &'static str,
}

/// All that people ask for.
pub const BEYOND: [Beyond; 11] = [
    Beyond {
        what: "FTP",
        names: &["ftp", "ftps"],
        why: "its data comes over second connections, to addresses that are told inside the first",
        instead: "SFTP, or FTPS between two programs that both speak it",
    },
    Beyond {
        what: "Kafka",
        names: &["kafka"],
        why: "a client asks any broker for the addresses of all, and goes there itself",
        instead: "one listener a broker, and the listeners' addresses as the brokers' advertised.listeners",
    },
    Beyond {
        what: "MongoDB replica sets",
        names: &["mongodb", "mongo"],
        why: "a driver learns the members' addresses from the first, and goes there itself",
        instead: "directConnection=true in the client, or mongos, as protocol = \"tcp\"",
    },
    Beyond {
        what: "Redis Cluster, Redis Sentinel",
        names: &["sentinel"],
        why: "MOVED, ASK and Sentinel's answers send the client to other addresses",
        instead: "a client with cluster mode off towards one node or a cluster proxy; instead of Sentinel's answers, all its servers as endpoints, and a health check that asks over HTTP who is the master (kind = \"http\")",
    },
    Beyond {
        what: "Cassandra, Elasticsearch sniffing, etcd's member sync",
        names: &["cassandra", "elasticsearch", "etcd"],
        why: "the client reads its peers' addresses from the first server",
        instead: "switch discovery off in the client, or one listener a node with the address that the node announces",
    },
    Beyond {
        what: "Oracle's TNS with a redirecting listener",
        names: &["oracle", "tns"],
        why: "the listener (SCAN, dispatchers) sends the client to another address",
        instead: "TCPS straight to the instance, as protocol = \"tcp\"",
    },
    Beyond {
        what: "SIP, RTSP, H.323",
        names: &["sip", "rtsp"],
        why: "the media's addresses stand inside the messages, and media is UDP",
        instead: "a session border controller",
    },
    Beyond {
        what: "NFS by rpcbind, DCOM, MS-RPC",
        names: &["nfs"],
        why: "ports are given out by an endpoint mapper",
        instead: "fixed ports where the server can have them (NFSv4), as protocol = \"tcp\"",
    },
    Beyond {
        what: "servers that insist on channel binding",
        names: &[],
        why: "the client's proof has to name the server's TLS channel, of which a plaintext client has none \
              (SCRAM-…-PLUS alone, Active Directory's LdapEnforceChannelBinding=2, SQL Server's Extended Protection=Required)",
        instead: "let the server accept clients without it; the certificate that nuncio shows stands for them",
    },
    Beyond {
        what: "RDP, SSH, VNC",
        names: &["rdp", "ssh", "vnc"],
        why: "they negotiate encryption in ways of their own, and their clients have it already",
        instead: "protocol = \"tcp\" with tls = \"off\" for endpoint choice, health and metrics",
    },
    Beyond {
        what: "anything over UDP or QUIC",
        names: &["udp", "quic"],
        why: "nuncio carries TCP",
        instead: "another tool",
    },
];
