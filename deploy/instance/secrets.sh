# shellcheck shell=bash disable=SC2154
# What is generated once, and which process is given what of it.

# The file of each secret, by the variable that a process finds it with.
declare -rA secret_file=(
  [MEMORIC_JWT_SECRET]=jwt-secret
  [MEMORIC_ASSERTION_KEY]=assertion-key
  [MEMORIC_CHECK_KEY]=check-key
  [MEMORIC_ENCRYPTION_KEY]=encryption-key
  [MEMORIC_DB_PASSWORD]=db-password
  [MEMORIC_DB_ADMIN_PASSWORD]=db-admin-password
  [ADMIN_PASSWORD]=admin-password
)
readonly -a gateway_secrets=(MEMORIC_JWT_SECRET MEMORIC_ASSERTION_KEY MEMORIC_CHECK_KEY)
readonly -a backend_secrets=("${gateway_secrets[@]}" MEMORIC_ENCRYPTION_KEY MEMORIC_DB_PASSWORD)
readonly -a migrate_secrets=("${backend_secrets[@]}" MEMORIC_DB_ADMIN_PASSWORD ADMIN_PASSWORD)

readonly certificate=$home/tls/localhost.pem

make_secrets() {
  local name
  for name in encryption-key db-admin-password; do
    # A new one would only hide that the old one is lost.
    [[ ! -d $data || -s $home/secrets/$name ]] ||
      die "$home/secrets/$name is missing, and the database was made with it: put it back"
  done
  keep jwt-secret openssl rand -hex 64
  keep assertion-key openssl rand -hex 32
  keep check-key openssl rand -hex 32
  keep encryption-key fernet_key
  keep db-password openssl rand -hex 32
  keep db-admin-password openssl rand -hex 32
  keep tls-key openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256
  if is_first_run && [[ -z ${CREATE_ADMIN-} ]]; then
    keep admin-password password
  fi
}

# keep NAME COMMAND...: what the command prints, in a file, once and whole.
keep() {
  local -r file=$home/secrets/$1
  [[ ! -s $file ]] || return 0
  "${@:2}" >"$file.new"
  sync "$file.new"
  mv "$file.new" "$file"
}

# As the guide generates one.
fernet_key() {
  openssl rand -base64 32 | tr +/ -_
}

# A password must have a capital, a small letter and a digit.
password() {
  local word=
  until [[ $word == *[[:upper:]]* && $word == *[[:lower:]]* && $word == *[[:digit:]]* ]]; do
    word=$(openssl rand -base64 24 | tr -d +/)
  done
  printf '%s\n' "$word"
}

make_certificate() {
  ! is_certificate_good || return 0
  # Not an authority: some clients refuse a server whose certificate could sign others.
  openssl req -x509 -new -key "$home/secrets/tls-key" -days 365 -config /dev/stdin -out "$certificate.new" <<'END'
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = localhost
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
END
  chmod 0755 "$home/tls"
  chmod 0644 "$certificate.new"
  mv "$certificate.new" "$certificate"
}

# Whether it is of our key and good for another week.
is_certificate_good() {
  [[ -s $certificate ]] &&
    openssl x509 -in "$certificate" -noout -checkend $((7 * 86400)) >/dev/null &&
    [[ $(openssl x509 -in "$certificate" -noout -pubkey) == "$(openssl pkey -in "$home/secrets/tls-key" -pubout)" ]]
}

# Whether the admin is ours to make and to tell, and not the caller's.
has_new_admin() {
  [[ -z ${CREATE_ADMIN-} && -s $home/secrets/admin-password ]]
}

# Gives the process that we are about to become the secrets that it needs, the caller's or else the generated ones,
# and takes all others away.
equip() {
  local -a own=()
  case $1 in
    gateway) own=("${gateway_secrets[@]}") ;;
    backend) own=("${backend_secrets[@]}") ;;
    migrate) own=("${migrate_secrets[@]}") ;;
  esac
  export MEMORIC_CONFIG=$config
  if [[ $1 != migrate ]]; then
    # The admin is made by then.
    unset CREATE_ADMIN ADMIN_USERNAME ADMIN_EMAIL
  elif has_new_admin; then
    unset ADMIN_PASSWORD ADMIN_PASSWORD_FILE
    export CREATE_ADMIN=true ADMIN_USERNAME=admin ADMIN_EMAIL=admin@localhost.localdomain
  fi

  local name
  for name in "${!secret_file[@]}"; do
    if [[ " ${own[*]} " != *" $name "* ]]; then
      unset "$name" "${name}_FILE"
    elif [[ ! -v $name && ! -v ${name}_FILE && -s $home/secrets/${secret_file[$name]} ]]; then
      export "${name}_FILE=$home/secrets/${secret_file[$name]}"
    fi
  done
}
