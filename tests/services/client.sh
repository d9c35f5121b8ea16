# A client (see README.md): a wget for each request.
url=$1 count=$2 in_flight=$3 prefix=$4

work() {
    number=$1
    while [ "$number" -lt "$count" ]; do
        status=200
        wget -q -O /dev/null --tries=1 --header "x-request-id: $prefix-$number" "$url" || status=-
        printf 'C %s %s-%s %s\n' "$SERVICE" "$prefix" "$number" "$status" >>"$TRUTH_LOG"
        number=$((number + in_flight))
    done
}

worker=0
while [ "$worker" -lt "$in_flight" ]; do
    work "$worker" &
    worker=$((worker + 1))
done
wait
