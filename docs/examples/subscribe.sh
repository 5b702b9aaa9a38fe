# bash subscribe.sh URL POSITION: prints position and event, for every event above the position, and never stops (PROOFTRAIL_TOKEN).
position=$2 coming=$2
while :; do
  while IFS= read -r line; do case $line in
    'id: '*) coming=${line#id: } ;;
    'data: '*) printf '%s %s\n' "$coming" "${line#data: }" ;;
    '') position=$coming ;; # the event is whole, and done with
  esac; done < <(printf 'header = "Authorization: Bearer %s"\n' "$PROOFTRAIL_TOKEN" |
    curl -sSfN --speed-limit 1 --speed-time 60 -H "Last-Event-ID: $position" -K - "$1")
  sleep 1
done
