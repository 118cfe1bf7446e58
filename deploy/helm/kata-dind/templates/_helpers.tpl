{{/* The name that all objects of a release begin with. */}}
{{- define "kata-dind.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $release := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $release .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels by which pods are selected: call it with the root and a component. */}}
{{- define "kata-dind.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. */}}
{{- define "kata-dind.labels" -}}
{{ include "kata-dind.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kata-dind
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Of a pod: nothing that changes with the chart's version, or with the policy or the certificate, which are read again. */}}
{{- define "kata-dind.podMetadata" -}}
labels:
  {{- include "kata-dind.selectorLabels" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kata-dind.image" -}}
{{- with .Values.image -}}
{{- .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Which image a container has, and how. */}}
{{- define "kata-dind.container" -}}
image: {{ include "kata-dind.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* What all pods have. */}}
{{- define "kata-dind.podSpec" -}}
securityContext:
  runAsNonRoot: true
  {{- with .Values.runAsUser }}
  runAsUser: {{ int64 . }}
  runAsGroup: {{ int64 . }}
  fsGroup: {{ int64 . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kata-dind.secretName" -}}
{{- default (printf "%s-tls" (include "kata-dind.fullname" .)) .Values.certs.secretName -}}
{{- end -}}

{{/* Whether webhooks ask registries, and whether they read Secrets for it: true, or nothing. */}}
{{- define "kata-dind.asksRegistries" -}}
{{- if dig "registry" "lookup" false .Values.policy -}} true {{- end -}}
{{- end -}}
{{- define "kata-dind.readsPullSecrets" -}}
{{- if and (include "kata-dind.asksRegistries" .) (dig "registry" "pullSecrets" false .Values.policy) -}} true {{- end -}}
{{- end -}}

{{/* The seconds that are enough for an answer for which registries are asked, if they are, and others if that is more. */}}
{{- define "kata-dind.seconds" -}}
{{- $asked := dig "registry" "timeoutSeconds" 3 .root.Values.policy | ceil | int | add 2 -}}
{{- ternary (max .atLeast $asked) .atLeast (not (empty (include "kata-dind.asksRegistries" .root))) | int -}}
{{- end -}}

{{/* The names by which the API server and the test reach the webhooks. */}}
{{- define "kata-dind.host" -}}
{{ include "kata-dind.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}
