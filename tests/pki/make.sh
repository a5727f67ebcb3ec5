#!/bin/sh
# Makes every file in this directory anew (needs openssl 3). See README.md.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
: >"$work/index"
cat >"$work/ca.conf" <<END
[ca]
default_ca = d
[d]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = p
unique_subject = no
[p]
commonName = supplied
END

ec() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
# issue FILE KEY SUBJECT FROM UNTIL EXTENSION...: signed by ca.key
issue() {
    file=$1 key=$2 subject=$3 from=$4 until=$5
    shift 5
    printf '%s\n' "$@" >"$work/ext"
    openssl req -new -key "$key" -subj "$subject" -out "$work/req"
    openssl ca -batch -notext -config "$work/ca.conf" -cert ca.pem -keyfile ca.key -startdate "$from" -enddate "$until" \
        -extfile "$work/ext" -in "$work/req" -out "$file" 2>/dev/null
}
# own FILE KEY SUBJECT EXTENSION...: signed by itself
own() {
    file=$1 key=$2 subject=$3
    shift 3
    printf '%s\n' "$@" >"$work/ext"
    openssl req -new -key "$key" -subj "$subject" -out "$work/req"
    openssl ca -batch -notext -config "$work/ca.conf" -selfsign -keyfile "$key" -startdate 20200101000000Z \
        -enddate 20990101000000Z -extfile "$work/ext" -in "$work/req" -out "$file" 2>/dev/null
}
long="20200101000000Z 20990101000000Z"
client="extendedKeyUsage=clientAuth"

ec ca.key
authority="basicConstraints=critical,CA:TRUE"
own ca.pem ca.key "/CN=nuncio test CA" $authority
ec "$work/other.key"
own other-ca.pem "$work/other.key" "/CN=another CA" $authority

ec client.key
issue client.pem client.key /CN=client $long "$client"
issue client-expired.pem client.key /CN=client 20200101000000Z 20210101000000Z "$client"
issue client-not-yet.pem client.key /CN=client 20900101000000Z 20990101000000Z "$client"
issue client-no-purpose.pem client.key /CN=client $long extendedKeyUsage=serverAuth
own client-stranger.pem "$work/other.key" /CN=stranger "$client"
cp "$work/other.key" client-stranger.key
openssl ec -in client.key -out client.sec1.key 2>/dev/null
openssl pkey -in client.key -aes256 -passout pass:secret -out client.encrypted.key
openssl ec -in client.key -aes256 -passout pass:secret -out client.legacy-encrypted.key 2>/dev/null
openssl x509 -in client.pem -outform der -out client.der
openssl pkey -in client.key -outform der -out client.key.der
openssl pkcs12 -export -in client.pem -inkey client.key -passout pass:secret -out client.p12
openssl req -new -key client.key -subj /CN=client -out client.csr
openssl pkey -in client.key -pubout -out client.pub
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out client-rsa.key
openssl rsa -in client-rsa.key -traditional -out client-rsa.pkcs1.key 2>/dev/null
issue client-rsa.pem client-rsa.key /CN=client-rsa $long "$client"

ec server.key
san="subjectAltName=DNS:upstream.test,DNS:*.pool.test"
issue server.pem server.key /CN=upstream.test $long "$san"
issue server-cn-only.pem server.key /CN=upstream.test $long subjectKeyIdentifier=hash
issue server-expired.pem server.key /CN=upstream.test 20200101000000Z 20210101000000Z "$san"
issue server-not-yet.pem server.key /CN=upstream.test 20900101000000Z 20990101000000Z "$san"
own server-self-signed-ca.pem server.key /CN=upstream.test "$san" $authority
own server-self-signed.pem server.key /CN=upstream.test "$san" basicConstraints=critical,CA:FALSE
openssl req -new -key server.key -subj /CN=upstream.test -out "$work/req"
# Only this command still makes X.509 v1; it cannot be told a first day.
openssl x509 -req -in "$work/req" -signkey server.key -days 29000 -out server-v1.pem 2>/dev/null
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out server-rsa.key
openssl req -new -key server-rsa.key -subj /CN=upstream.test -out "$work/req"
openssl x509 -req -in "$work/req" -signkey server-rsa.key -days 29000 -out server-v1-rsa.pem 2>/dev/null
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out server-weak.key
issue server-weak.pem server-weak.key /CN=upstream.test $long "$san"
# As if the CA had been made anew under its old name.
ec "$work/twin.key"
own twin-ca.pem "$work/twin.key" "/CN=nuncio test CA" $authority
