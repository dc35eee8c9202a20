# fastrl on vLLM's image: torch, CUDA and vLLM already fit each other there, and pip is told not to change them.
#   docker build -t fastrl .
#   docker run --gpus all --ipc host -v "$PWD:/runs" -w /runs fastrl fastrl doctor
ARG VLLM=v0.32.0
FROM vllm/vllm-openai:${VLLM} AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY csrc csrc
COPY kernels kernels
COPY fastrl fastrl
# AUTO: with the CUDA kernels where the image has nvcc; the architecture is Hopper's unless CUDAARCHS says otherwise.
ARG CUDAARCHS=90a-real
RUN CUDAARCHS=${CUDAARCHS} python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM vllm/vllm-openai:${VLLM}
COPY --from=build /wheels /wheels
RUN python3 -m pip freeze | grep -iE '^(torch|vllm|transformers|numpy|triton)==' > /constraints.txt \
    && python3 -m pip install --no-cache-dir -c /constraints.txt "$(ls /wheels/*.whl)[peft,track]" \
    && rm -rf /wheels /constraints.txt \
    && python3 -c "import fastrl.ops"
# the image starts a server; here a command is given
ENTRYPOINT []
CMD ["fastrl", "--help"]
