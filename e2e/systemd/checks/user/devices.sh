# What this user may open and mount, which other hosts may refuse.
: <>/dev/fuse
: <>/dev/net/tun
! (: <>/dev/vda) 2>/dev/null || fail 'a disk could be opened'
mkdir lower upper work merged
echo lower >lower/file
unshare --user --map-root-user --mount sh -euc '
    mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged
    echo upper >merged/file'
same overlay "$(cat upper/file lower/file)" $'upper\nlower'
! mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged 2>/dev/null ||
    fail 'a mount outside of a user namespace'
