{{/*
A webhook of the configuration. API servers repeat no call that failed, so with Ignore a second one is asked `again`, about
the pods that nobody has repaired. Not with Fail: the annotation, which anybody may write, would let a pod pass that no
webhook has seen, and whoever makes a pod that is refused tries again.
*/}}
{{- define "kata-dind.hook" -}}
{{- $again := .again -}}
{{- with .root -}}
- name: {{ ternary "again." "" $again }}pods.kata-dind.io
  admissionReviewVersions: [v1]
  sideEffects: None
  matchPolicy: Equivalent
  failurePolicy: {{ .Values.webhook.failurePolicy }}
  reinvocationPolicy: {{ .Values.webhook.reinvocationPolicy }}
  timeoutSeconds: {{ include "kata-dind.seconds" (dict "root" . "atLeast" .Values.webhook.timeoutSeconds) }}
  clientConfig:
    service:
      name: {{ include "kata-dind.fullname" . }}
      namespace: {{ .Release.Namespace }}
      path: /mutate
      port: 443
    {{- if eq .Values.certs.mode "provided" }}
    caBundle: {{ .Values.certs.caBundle }}
    {{- end }}
  rules:
    - apiGroups: [""]
      apiVersions: [v1]
      resources: [pods]
      operations: [CREATE]
      scope: Namespaced
    {{- if not $again }}
    - apiGroups: [""]
      apiVersions: [v1]
      resources: [pods/ephemeralcontainers]
      operations: [UPDATE]
      scope: Namespaced
    {{- end }}
  namespaceSelector:
    {{- with .Values.webhook.namespaceSelector.matchLabels }}
    matchLabels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    matchExpressions:
      # Its own pods must come up when no webhook answers.
      - key: kubernetes.io/metadata.name
        operator: NotIn
        values: {{ append .Values.webhook.excludedNamespaces .Release.Namespace | uniq | toJson }}
      - key: kata-dind.io/webhook
        operator: NotIn
        values: [disabled]
      {{- with .Values.webhook.namespaceSelector.matchExpressions }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  objectSelector:
    {{- with .Values.webhook.objectSelector.matchLabels }}
    matchLabels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    matchExpressions:
      - key: kata-dind.io/webhook
        operator: NotIn
        values: [disabled]
      {{- with .Values.webhook.objectSelector.matchExpressions }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  matchConditions:
    - name: policy
      expression: {{ include "kata-dind.pods" . | quote }}
    {{- if $again }}
    - name: not-repaired
      expression: "!('kata-dind.io/repaired' in object.metadata.?annotations.orValue({}))"
    {{- end }}
    {{- with .Values.webhook.matchConditions }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
{{- end -}}
