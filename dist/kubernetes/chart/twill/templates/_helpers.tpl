{{/* The labels of everything. */}}
{{- define "twill.labels" -}}
app.kubernetes.io/name: twill
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: twill
{{- end }}

{{/* By which a DaemonSet knows its Pods; it cannot be changed later. */}}
{{- define "twill.selector" -}}
app.kubernetes.io/name: twill
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "twill.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* net-conf.json. */}}
{{- define "twill.netConf" -}}
{{- $vxlan := dict "Type" "vxlan" "VNI" (int .Values.backend.vni) "Port" (int .Values.backend.port) -}}
{{- if .Values.backend.mtu }}{{ $_ := set $vxlan "MTU" (int .Values.backend.mtu) }}{{ end -}}
{{- if .Values.backend.directRouting }}{{ $_ := set $vxlan "DirectRouting" true }}{{ end -}}
{{- $conf := dict "Backend" $vxlan -}}
{{- with .Values.network.ipv4 }}{{ $_ := set $conf "Network" . }}{{ else }}{{ $_ := set $conf "EnableIPv4" false }}{{ end -}}
{{- with .Values.network.ipv6 }}{{ $_ := set $conf "IPv6Network" . }}{{ $_ := set $conf "EnableIPv6" true }}{{ end -}}
{{- mergeOverwrite $conf (deepCopy .Values.networkConfig) | toPrettyJson -}}
{{- end }}

{{/* cni-conf.json: the file as it is, unless portmap is told something. */}}
{{- define "twill.cniConf" -}}
{{- $file := .Files.Get "files/cni-conf.json" | trim -}}
{{- if .Values.cni.portmapBackend -}}
{{- $conf := fromJson $file -}}
{{- range $conf.plugins }}{{ if eq .type "portmap" }}{{ $_ := set . "backend" $.Values.cni.portmapBackend }}{{ end }}{{ end -}}
{{- toPrettyJson $conf -}}
{{- else -}}
{{- $file -}}
{{- end -}}
{{- end }}

{{/* The prefix of annotations with what joins it to their names, as twilld does. */}}
{{- define "twill.prefix" -}}
{{- $p := .Values.annotationPrefix -}}
{{- if not (contains "/" $p) }}{{ $p }}/{{ else if or (hasSuffix "/" $p) (hasSuffix "-" $p) }}{{ $p }}{{ else }}{{ $p }}-{{ end -}}
{{- end }}

{{/* Where the kubelet asks for health. */}}
{{- define "twill.probe" -}}
{{- $host := .Values.health.address -}}
host: {{ if eq $host "0.0.0.0" }}127.0.0.1{{ else if eq $host "::" }}"::1"{{ else }}{{ $host | quote }}{{ end }}
port: {{ .Values.health.port }}
{{- end }}

{{/* What twilld is told of the API server, to run and to clean up. */}}
{{- define "twill.kubeArgs" -}}
- --kube-subnet-mgr
{{- with .Values.kubeApiUrl }}
- {{ printf "--kube-api-url=%s" . | quote }}
{{- end }}
{{- if ne .Values.annotationPrefix "flannel.alpha.coreos.com" }}
- {{ printf "--kube-annotation-prefix=%s" .Values.annotationPrefix | quote }}
{{- end }}
- --log-level={{ .Values.logLevel }}
{{- end }}

{{/* Of each Pod, whatever it does. */}}
{{- define "twill.pod" -}}
hostNetwork: true
serviceAccountName: twilld
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: 10
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  seccompProfile:
    type: RuntimeDefault
  {{- with .Values.seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Of each container but the one that is privileged. */}}
{{- define "twill.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
