# One round of a project's work in the current directory: what, and the milliseconds it took. The
# project is made by the first round and stays. $1 is a toolchain of Rust, where there is one.
set -eu
export GIT_AUTHOR_NAME=b GIT_AUTHOR_EMAIL=b@b.invalid GIT_COMMITTER_NAME=b GIT_COMMITTER_EMAIL=b@b.invalid
export GIT_OPTIONAL_LOCKS=0 CARGO_NET_OFFLINE=true CARGO_TERM_QUIET=true
unset CARGO_TARGET_DIR RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

timed() {
    local what=$1 begin end
    shift
    begin=$EPOCHREALTIME
    "$@" >/dev/null 2>&1
    end=$EPOCHREALTIME
    echo "$what $((${end/./} - ${begin/./}))"
}

# tree DIRECTORY DIRECTORIES FILES
tree() {
    local d f
    for d in $(seq "$2"); do
        mkdir -p "$1/d$d"
        for f in $(seq "$3"); do echo "$d $f" >"$1/d$d/f$f"; done
    done
}

project() {
    tree status 100 50
    git init -q status
    git -C status add .
    git -C status commit -q -m all
    tree many 100 100
    tar -cf many.tar many
    rm -r many

    mkdir -p crate/src packages npm
    local n dependencies=''
    printf '[workspace]\nmembers = ["c*"]\nresolver = "2"\n' >crate/Cargo.toml
    rm -r crate/src
    for n in $(seq 12); do
        mkdir -p "crate/c$n/src"
        printf '[package]\nname = "c%s"\nversion = "0.1.0"\nedition = "2021"\n' "$n" >"crate/c$n/Cargo.toml"
        for f in $(seq 40); do
            echo "pub fn f$f(n: &[u64]) -> Vec<String> { n.iter().map(|n| format!(\"{:?}\", (n, $f))).collect() }"
        done >"crate/c$n/src/lib.rs"
    done
    for n in $(seq 40); do
        mkdir -p packages/package
        for f in $(seq 50); do echo "module.exports = $f" >"packages/package/f$f.js"; done
        echo "{\"name\":\"p$n\",\"version\":\"1.0.0\"}" >packages/package/package.json
        tar -czf "packages/p$n.tgz" -C packages package
        rm -r packages/package
        dependencies+="${dependencies:+,}\"p$n\":\"file:../packages/p$n.tgz\""
    done
    echo "{\"name\":\"n\",\"version\":\"1.0.0\",\"dependencies\":{$dependencies}}" >npm/package.json
    (cd npm && npm install --package-lock-only --offline --no-audit --no-fund >/dev/null 2>&1)
    git -C status status >/dev/null
    touch made
}

[ -e made ] || project
# What was looked at a moment ago is known without a question; here nothing is.
sleep 1
timed status git -C status status
timed again git -C status status
timed unpack tar -xf many.tar
timed remove rm -r many
if [ -n "${1:-}" ]; then
    PATH=$1/bin:$PATH
    rm -rf crate/target
    timed build cargo build --manifest-path crate/Cargo.toml
fi
timed install npm --prefix npm ci --offline --no-audit --no-fund
rm -rf npm/node_modules
