# The program and nothing else: no shell, no package manager, not root. docker compose builds it as flashsale:local.
FROM golang:1.26-bookworm AS build
ARG GOPROXY
ENV CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN go build -trimpath -ldflags='-s -w' -o /out/flashsale ./cmd/flashsale && mkdir -p /out/secrets

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/flashsale /flashsale
# A fresh volume that is mounted here belongs to the user below.
COPY --from=build --chown=65532:65532 /out/secrets /run/flashsale
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/flashsale", "health"]
ENTRYPOINT ["/flashsale"]
CMD ["serve"]
