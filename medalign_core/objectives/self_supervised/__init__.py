"""What LVM-Med is compared with: other self-supervised objectives on the same views, under the same trainer."""
