# python3 subscribe.py URL POSITION: prints position and event, for every event above the position, and never stops (PROOFTRAIL_TOKEN).
import os, sys, time, urllib.request
position = coming = sys.argv[2]
while True:
    try:
        headers = {"Authorization": f"Bearer {os.environ['PROOFTRAIL_TOKEN']}", "Last-Event-ID": position}
        for line in urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers), timeout=60):
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "id": coming = value
            elif field == "data": print(coming, value, flush=True)
            elif not field: position = coming  # an empty line: the event is whole, and done with
    except Exception as error: print(error, file=sys.stderr), time.sleep(1)
