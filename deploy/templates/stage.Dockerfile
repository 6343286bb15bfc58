FROM $base AS $stage
USER 0
${packages}WORKDIR $root
COPY $files ./
$copies
# What the base image has stays as it is: our packages lie over it, in an environment of their own.
# Inside a container the WebUI listens to all; who reaches it is a matter of the published port.
RUN python3 -m venv --system-site-packages .venv \
    && .venv/bin/python -m pip install --no-cache-dir$index --editable ".$extra" \
$check    && sed -i 's/^OPTIONS=""/OPTIONS="--host 0.0.0.0"/' start-webui-service.sh \
    && useradd --uid $user --no-log-init --create-home --home-dir $home step3vl
ENV HOME=$home \
    STEP3VL_HOME=$home \
    PATH="$root/.venv/bin:$$PATH"
USER $user
