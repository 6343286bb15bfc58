#!/bin/sh
# The WebUI in the foreground: what supervisord runs, and what you run to debug it by hand.
#   ./start-webui-service.sh --host 0.0.0.0 --port 7860
# Options written here win over the YAML. To change the port: OPTIONS="--port 7861"
OPTIONS=""

here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC2086  (OPTIONS holds several words)
exec "$here/launcher/launch" exec webui $OPTIONS "$@"
