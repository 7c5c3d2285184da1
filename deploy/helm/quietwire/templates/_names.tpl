{{- define "quietwire.labels" -}}
app.kubernetes.io/name: quietwire
app.kubernetes.io/part-of: quietwire
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "quietwire.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end }}

{{- define "quietwire.audience" -}}quietwire-authority{{- end }}

{{- /* Namespaces of which the webhooks are asked: beside Linkerd those, and only those, of which its injector is not. */}}
{{- define "quietwire.namespaces" -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values: {{- concat (list .Release.Namespace) .Values.webhook.exemptNamespaces | uniq | toYaml | nindent 6 }}
  {{- if .Values.besideLinkerd }}
  - key: config.linkerd.io/admission-webhooks
    operator: In
    values: [disabled]
  {{- end }}
{{- end }}

{{- /* What a pod is given to speak to the API server, where it is not mounted by itself. */}}
{{- define "quietwire.apiToken" -}}
projected:
  sources:
    - serviceAccountToken:
        expirationSeconds: 3600
        path: token
    - configMap:
        name: kube-root-ca.crt
        items:
          - key: ca.crt
            path: ca.crt
    - downwardAPI:
        items:
          - path: namespace
            fieldRef:
              fieldPath: metadata.namespace
{{- end }}
