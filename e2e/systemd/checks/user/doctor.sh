# What doctor says of a host where containers need nothing.
said=$(sbx doctor 2>&1 || true)
has doctor "$said" 'pass  isolation container: works'
! [[ $said = *'without limits'* ]] || fail "$said"
echo "$said"
