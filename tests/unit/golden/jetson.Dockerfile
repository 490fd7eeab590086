# Rendered by jbuild for demo/one. After `jbuild render --standalone`, build it without jbuild in this folder:
#   docker buildx build --platform=linux/arm64 --build-arg=SOURCE_DATE_EPOCH=315532800 --provenance=false --output=type=oci,dest=image.tar,compression=zstd,force-compression=true,oci-mediatypes=true --metadata-file=metadata.json .
FROM localhost:5000/mirror/l4t-jetpack:r36.4.0@sha256:1111111111111111111111111111111111111111111111111111111111111111

# The only step that runs on the target's own processor, or under its emulation.
RUN --mount=type=bind,source=system,target=/run/jbuild --mount=type=secret,id=ca --mount=type=secret,id=netrc ["/bin/sh", "/run/jbuild/install.sh", "315532800", "10001", "vllm", "libgomp1", "python3"]

COPY --link layers/environment-py3.11-1/ /
COPY --link layers/torch-0123456789ab/ /

COPY --link layers/model-tiny-0123456789ab/ /

COPY --link layers/runtime-0123456789ab/ /
ENV PATH="/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENV VIRTUAL_ENV="/opt/venv"
ENV HOME="/cache"
ENV USER="vllm"
ENV LOGNAME="vllm"
ENV XDG_CACHE_HOME="/cache"
ENV HF_HOME="/cache/huggingface"
ENV VLLM_CACHE_ROOT="/cache/vllm"
ENV VLLM_CONFIG_ROOT="/cache/vllm"
ENV TRITON_CACHE_DIR="/cache/triton"
ENV TORCHINDUCTOR_CACHE_DIR="/cache/inductor"
ENV FLASHINFER_WORKSPACE_BASE="/cache"
ENV VLLM_NO_USAGE_STATS="1"
ENV HF_HUB_OFFLINE="1"
ENV TRANSFORMERS_OFFLINE="1"
ENV NVIDIA_VISIBLE_DEVICES="all"
ENV NVIDIA_DRIVER_CAPABILITIES="all"
ENV GREETING="say \"hi\" for \$5 \\o/"
WORKDIR /home/vllm
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=20s --start-period=900s --retries=3 CMD ["/opt/venv/bin/python", "-SE", "/opt/jbuild/healthcheck.py"]
ENTRYPOINT ["/opt/venv/bin/python", "-SE", "/opt/jbuild/entrypoint.py"]

LABEL "io.jbuild.cell"="one"
LABEL "io.jbuild.cuda"="12.6"
LABEL "io.jbuild.l4t"="36.4.0"
LABEL "io.jbuild.lock"="…"
LABEL "io.jbuild.model-licences"="tiny=Apache-2.0"
LABEL "io.jbuild.model-sources"="tiny=hf://org/tiny@0000000000000000000000000000000000000000,other=hf://org/other@0000000000000000000000000000000000000000"
LABEL "io.jbuild.models"="tiny,other"
LABEL "io.jbuild.python"="3.10"
LABEL "io.jbuild.recipe"="demo"
LABEL "io.jbuild.sms"="8.7"
LABEL "io.jbuild.stand-ins"="base nvcr.io/nvidia/l4t-jetpack:r36.4.0: made here; model tiny: random weights"
LABEL "io.jbuild.vllm"="0.9.3+cu126"
LABEL "org.opencontainers.image.base.digest"="sha256:1111111111111111111111111111111111111111111111111111111111111111"
LABEL "org.opencontainers.image.base.name"="nvcr.io/nvidia/l4t-jetpack:r36.4.0"
LABEL "org.opencontainers.image.description"="A demonstration"
LABEL "org.opencontainers.image.licenses"="Apache-2.0"
LABEL "org.opencontainers.image.title"="demo one"
LABEL "org.opencontainers.image.version"="0.9.3+cu126"
LABEL "team"="Ärger & Söhne"
