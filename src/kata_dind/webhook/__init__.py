"""The admission webhook: AdmissionReviews come in over HTTPS, and JSON patches go out. It keeps no state.

`reviews` types the wire format, `decide` makes an answer of a review and a policy, `remarks` what users are told; all
three are pure. `answering` is the border where a bug becomes an answer that admits the pod, and where each decision is
counted and logged; before that, `lookups` asks registries what images run, with the `pull_secrets` of their pods.
`connections` speaks HTTP, `routes` has the paths, `certificates` the TLS; `reloads` follows files that change;
`serving` puts all of it together, and ends it.

In a cluster, `keeping` makes and renews what the webhook needs: `authority` makes and reads certificates, `secret` and
`configuration` know the objects that have them, `rotation` plans what is to be done; it and these two are pure.

Installing it: `conditions` says which pods an API server asks about, `manifest` has the objects; both are pure, and the
Helm chart is their source. `check` asks webhooks that run.
"""
